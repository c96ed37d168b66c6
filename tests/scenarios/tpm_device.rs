//! The crate `attest` with swtpm (Debian package `swtpm`).

use attest::{DeviceTpm, Tpm, TpmError, tpm_hash};
use protocol::TpmHash;
use qemu::swtpm::{EkCertificate, Tpm as SoftwareTpm};
use x509_cert::der::{Decode, Encode};

#[tokio::test]
async fn the_identity_is_stable_and_the_certificate_is_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let software = SoftwareTpm::for_programs(folder.path(), EkCertificate::Present).await.unwrap();
    let mut tpm = DeviceTpm::open(&software.tcti()).unwrap();
    let (ek, ak) = (tpm.endorsement_key().unwrap(), tpm.attestation_key().unwrap());
    let certificates = tpm.endorsement_certificates().unwrap();
    let own = x509_cert::Certificate::from_der(&certificates[0]).unwrap();
    assert_eq!(own.tbs_certificate().subject_public_key_info().to_der().unwrap(), ek);
    assert_eq!(tpm_hash(&mut tpm).unwrap(), TpmHash::of_public_key(&ek));
    assert_eq!(tpm.info().unwrap().manufacturer, "IBM");
    // swtpm has three slots for objects and no resource manager, so a leaked object would show here.
    for _ in 0..4 {
        drop(tpm);
        tpm = DeviceTpm::open(&software.tcti()).unwrap();
        assert_eq!((tpm.endorsement_key().unwrap(), tpm.attestation_key().unwrap()), (ek.clone(), ak.clone()));
    }
}

#[tokio::test]
async fn a_tpm_without_a_certificate_still_has_an_identity() {
    let folder = tempfile::tempdir().unwrap();
    let software = SoftwareTpm::for_programs(folder.path(), EkCertificate::Absent).await.unwrap();
    let mut tpm = DeviceTpm::open(&software.tcti()).unwrap();
    assert_eq!(tpm.endorsement_certificates().unwrap(), Vec::<Vec<u8>>::new());
    assert!(!tpm.endorsement_key().unwrap().is_empty());
}

#[tokio::test]
async fn quotes_are_over_the_nonce_and_wrong_challenges_leave_no_sessions_behind() {
    let folder = tempfile::tempdir().unwrap();
    let software = SoftwareTpm::for_programs(folder.path(), EkCertificate::Absent).await.unwrap();
    let mut tpm = DeviceTpm::open(&software.tcti()).unwrap();
    let nonce = [7u8; 32];
    let quote = tpm.quote(&nonce, &[0, 4, 7]).unwrap();
    assert!(quote.attest.windows(nonce.len()).any(|window| window == nonce));
    // More often than there are session slots.
    for _ in 0..6 {
        let error = tpm.activate(&[0; 50], &[0; 256]).unwrap_err();
        assert!(matches!(error, TpmError::Failed { .. }), "{error}");
    }
    tpm.quote(&nonce, &[0]).unwrap();
}
