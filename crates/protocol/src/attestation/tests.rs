//! Tests with data that a TPM made (`testdata/INDEX`), and with altered copies of it.

use super::*;
use crate::refusal::RefusalCode;
use proptest::prelude::*;

struct Identity {
    endorsement_key: &'static [u8],
    attestation_key: &'static [u8],
    quote: &'static [u8],
    signature: &'static [u8],
}

macro_rules! identity {
    ($name:literal) => {
        Identity {
            endorsement_key: include_bytes!(concat!("../../testdata/", $name, ".ek.der")),
            attestation_key: include_bytes!(concat!("../../testdata/", $name, ".ak.tpmt")),
            quote: include_bytes!(concat!("../../testdata/", $name, ".quote")),
            signature: include_bytes!(concat!("../../testdata/", $name, ".signature")),
        }
    };
}

const RSA2048_P256: Identity = identity!("rsa2048-p256");
const P256_RSA2048: Identity = identity!("p256-rsa2048");
const P384_P256: Identity = identity!("p384-p256");
const NONCE: &[u8] = include_bytes!("../../testdata/nonce");
const PCRS: &[u8] = &[0, 4, 7];

fn verify(identity: &Identity, quote: &[u8], signature: &[u8]) -> Result<Quote, RefusalCode> {
    let key = AttestationKey::parse(identity.attestation_key).unwrap();
    key.verify_quote(quote, signature, NONCE, PCRS).map_err(|refusal| refusal.code)
}

#[test]
fn quotes_of_a_tpm_are_believed() {
    for identity in [RSA2048_P256, P256_RSA2048, P384_P256] {
        let quote = verify(&identity, identity.quote, identity.signature).unwrap();
        assert_eq!(quote.pcr_digest.len(), 32);
    }
}

#[test]
fn a_quote_of_another_exchange_or_over_other_pcrs_is_refused() {
    let key = AttestationKey::parse(RSA2048_P256.attestation_key).unwrap();
    let refusal = |nonce: &[u8], pcrs: &[u8]| {
        let refusal = key.verify_quote(RSA2048_P256.quote, RSA2048_P256.signature, nonce, pcrs).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::QuoteRejected);
        refusal.message
    };
    assert!(refusal(&[0; 32], PCRS).ends_with("it does not cover this exchange's nonce"));
    assert!(refusal(&[], PCRS).ends_with("it does not cover this exchange's nonce"));
    for pcrs in [&[0, 4][..], &[0, 4, 7, 11], &[], &[40]] {
        assert!(refusal(NONCE, pcrs).ends_with("it does not cover the requested PCRs"));
    }
    // The order of the PCRs and repeated ones do not matter.
    assert!(key.verify_quote(RSA2048_P256.quote, RSA2048_P256.signature, NONCE, &[7, 0, 4, 0]).is_ok());
}

#[test]
fn a_quote_signed_by_another_key_is_refused() {
    let others = [(P384_P256.quote, P384_P256.signature), (P256_RSA2048.quote, P256_RSA2048.signature)];
    for (quote, signature) in others {
        let key = if signature.len() > 72 { &RSA2048_P256 } else { &P256_RSA2048 };
        assert_eq!(verify(key, quote, signature), Err(RefusalCode::QuoteRejected));
    }
}

#[test]
fn every_changed_bit_of_a_quote_or_signature_is_refused() {
    let (quote, signature) = (RSA2048_P256.quote, RSA2048_P256.signature);
    for bit in 0..quote.len() * 8 {
        assert_eq!(verify(&RSA2048_P256, &flipped(quote, bit), signature), Err(RefusalCode::QuoteRejected));
    }
    for bit in 0..signature.len() * 8 {
        assert_eq!(verify(&RSA2048_P256, quote, &flipped(signature, bit)), Err(RefusalCode::QuoteRejected));
    }
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

#[test]
fn an_attestation_key_that_could_sign_anything_is_refused() {
    let key = RSA2048_P256.attestation_key;
    // TPMA_OBJECT follows type and name algorithm; bits as in part 2, 8.3.
    let attribute = |bit: usize| 32 + (31 - bit) / 8 * 8 + bit % 8;
    for (bit, reason) in
        [(1, "fixedTPM"), (4, "fixedParent"), (5, "sensitiveDataOrigin"), (16, "restricted"), (18, "sign")]
    {
        let refusal = AttestationKey::parse(&flipped(key, attribute(bit))).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::UnacceptableAttestationKey);
        assert!(refusal.message.ends_with(&format!("({reason})")), "{refusal}");
    }
    assert!(AttestationKey::parse(&flipped(key, attribute(17))).unwrap_err().message.ends_with("(decrypt)"));
    assert!(AttestationKey::parse(&[key, &[0]].concat()).unwrap_err().message.contains("bytes after the end"));
    for length in 0..key.len() {
        assert!(AttestationKey::parse(&key[..length]).is_err(), "{length}");
    }
    // A point that is not on the curve.
    assert!(AttestationKey::parse(&flipped(key, key.len() * 8 - 1)).is_err());
}

#[test]
fn endorsement_keys_are_known_by_the_hash_of_their_one_encoding() {
    for identity in [RSA2048_P256, P256_RSA2048, P384_P256] {
        let key = EndorsementKey::from_spki_der(identity.endorsement_key).unwrap();
        assert_eq!(key.tpm_hash(), crate::TpmHash::of_public_key(identity.endorsement_key));
        for wrong in [&identity.endorsement_key[1..], &[identity.endorsement_key, &[0]].concat(), b""] {
            let refusal = EndorsementKey::from_spki_der(wrong).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::UnsupportedEndorsementKey);
        }
    }
    // A long length where a short one would do: BER, not DER.
    let rest = &P256_RSA2048.endorsement_key[2..];
    assert!(EndorsementKey::from_spki_der(&[&[0x30, 0x81, rest.len() as u8], rest].concat()).is_err());
}

#[test]
fn credentials_have_the_shape_that_a_tpm_takes() {
    let name = AttestationKey::parse(RSA2048_P256.attestation_key).unwrap().name().clone();
    let cases = [(RSA2048_P256, 32, 256), (P256_RSA2048, 32, 2 * (2 + 32)), (P384_P256, 48, 2 * (2 + 48))];
    for (identity, digest, encrypted) in cases {
        let key = EndorsementKey::from_spki_der(identity.endorsement_key).unwrap();
        let (one, two) = (key.make_credential(&name, &[7; 32]).unwrap(), key.make_credential(&name, &[7; 32]).unwrap());
        assert_eq!(one.credential.len(), 2 + digest + 2 + 32);
        assert_eq!(one.encrypted_secret.len(), encrypted);
        assert!(one != two, "a seed is used once");
    }
}

#[test]
fn the_secret_is_compared_whole() {
    assert_eq!(check_secret(&[1; 32], &[1; 32]), Ok(()));
    for wrong in [&[1; 31][..], &[1; 33], &[0; 32], &[]] {
        assert_eq!(check_secret(&[1; 32], wrong).unwrap_err().code, RefusalCode::ProofRejected);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>, cut in 0usize..300, at in 0usize..300) {
        let spliced = |original: &[u8]| {
            let (cut, at) = (cut.min(original.len()), at.min(original.len()));
            [&original[..cut], &bytes, &original[at..]].concat()
        };
        let _ = AttestationKey::parse(&bytes);
        let _ = AttestationKey::parse(&spliced(P256_RSA2048.attestation_key));
        let _ = AttestationKey::parse(&spliced(RSA2048_P256.attestation_key));
        let _ = EndorsementKey::from_spki_der(&bytes);
        let _ = EndorsementKey::from_spki_der(&spliced(RSA2048_P256.endorsement_key));
        let _ = Statement::parse(&bytes);
        let _ = Statement::parse(&spliced(RSA2048_P256.quote));
        let _ = verify(&RSA2048_P256, &spliced(RSA2048_P256.quote), &spliced(RSA2048_P256.signature));
        let _ = verify(&P256_RSA2048, P256_RSA2048.quote, &spliced(P256_RSA2048.signature));
    }
}
