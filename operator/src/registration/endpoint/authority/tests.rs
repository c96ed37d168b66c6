//! Tests of `registration::endpoint::authority`.

use super::certificate::{AUTHORITY_DAYS, DAY};
use super::*;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

fn hosts() -> Vec<String> {
    ["10.0.2.2", "127.0.0.1", "localhost"].map(String::from).to_vec()
}
fn after(days: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + days * DAY).unwrap()
}
/// Renews the material. Nothing is known of the installed machines.
fn renew(current: Option<&TlsMaterial>, hosts: &[String], day: i64) -> Result<TlsMaterial, AuthorityError> {
    renewed(current, hosts, &InstalledMachines::default(), None, after(day))
}
/// Whether a client that trusts `bundle` accepts the server certificate of `material`.
fn trusts(bundle: &str, material: &TlsMaterial, host: &str, at: Timestamp) -> bool {
    let ders: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes()).map(Result::unwrap).collect();
    let anchors: Vec<_> = ders.iter().map(|der| webpki::anchor_from_trusted_cert(der).unwrap()).collect();
    let server = CertificateDer::from_pem_slice(material.server.certificate.as_bytes()).unwrap();
    let server = webpki::EndEntityCert::try_from(&server).unwrap();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.as_second() as u64));
    let usage = webpki::KeyUsage::server_auth();
    server.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &[], time, usage, None, None).is_ok()
        && server.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap()).is_ok()
}

#[test]
fn a_new_certificate_is_trusted_by_name_and_by_address() {
    let material = renew(None, &hosts(), 0).unwrap();
    for host in hosts() {
        assert!(trusts(&material.bundle(), &material, &host, after(0)), "{host}");
    }
    assert!(!trusts(&material.bundle(), &material, "10.0.2.3", after(0)));
    assert_eq!(renew(Some(&material), &hosts(), 1).unwrap(), material);
}

#[test]
fn a_server_certificate_is_renewed_before_it_expires_and_when_the_url_changes() {
    let material = renew(None, &hosts(), 0).unwrap();
    let later = renew(Some(&material), &hosts(), 61).unwrap();
    assert_eq!(later.authority, material.authority);
    assert_ne!(later.server, material.server);
    let moved = renew(Some(&material), &["ros.example.org".into()], 1).unwrap();
    assert!(trusts(&material.bundle(), &moved, "ros.example.org", after(1)));
}

#[test]
fn a_damaged_part_is_named_and_no_new_authority_is_created() {
    let material = renew(None, &hosts(), 0).unwrap();
    let other = renew(None, &hosts(), 0).unwrap();
    let whole = TlsMaterial {
        successor: Some(other.authority.clone()),
        predecessor: Some(other.authority.certificate.clone()),
        ..material.clone()
    };
    type Damage = fn(&mut TlsMaterial, &TlsMaterial);
    let damages: [(&str, Damage); 6] = [
        ("ca.crt", |material, _| material.authority.certificate = "x".into()),
        ("ca.key", |material, _| material.authority.key.truncate(60)),
        ("ca.key", |material, other| material.authority.key.clone_from(&other.authority.key)),
        ("successor.crt", |material, _| material.successor.as_mut().unwrap().certificate.clear()),
        ("successor.key", |material, _| material.successor.as_mut().unwrap().key.clear()),
        ("predecessor.crt", |material, _| material.predecessor = Some("-----BEGIN".into())),
    ];
    for (key, damage) in damages {
        let mut damaged = whole.clone();
        damage(&mut damaged, &other);
        let error = renew(Some(&damaged), &hosts(), 1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("key {key} of Secret")), "{key}: {error}");
    }
    let mut damaged = whole.clone();
    damaged.server.key = other.server.key;
    let mended = renew(Some(&damaged), &hosts(), 1).unwrap();
    assert!(trusts(&material.bundle(), &mended, "localhost", after(1)));
    assert_eq!(TlsMaterial { server: whole.server.clone(), ..mended }, whole);
}

#[test]
fn a_client_that_learned_the_bundle_is_never_locked_out() {
    let mut material = renew(None, &hosts(), 0).unwrap();
    let first = material.bundle();
    let mut year_ago = vec![first.clone()];
    // Twenty-five years in steps of two weeks contain two rotations of the authority.
    for day in (0..25 * 365).step_by(14) {
        material = renew(Some(&material), &hosts(), day).unwrap();
        let known = &year_ago[year_ago.len().saturating_sub(25)];
        assert!(trusts(known, &material, "localhost", after(day)), "day {day}");
        year_ago.push(material.bundle());
    }
    assert!(!material.bundle().contains(first.trim_end()), "the first authority has expired and is gone");
}

#[test]
fn a_successor_takes_over_when_all_machines_know_it_or_on_request() {
    let first = renew(None, &hosts(), 0).unwrap();
    let next = |current: &TlsMaterial, machines: &InstalledMachines, request, day| {
        renewed(Some(current), &hosts(), machines, request, after(day)).unwrap()
    };
    let told = |material: &TlsMaterial, behind| InstalledMachines { bundle: material.bundle(), behind };
    let published = next(&first, &told(&first, Some(0)), Some(AuthorityRequest::Renew), 1);
    assert_eq!(published.authority, first.authority);
    let successor = published.successor.clone().unwrap();
    // The successor waits: it was not sent to the machines, or one has not confirmed it, or that is not known.
    for machines in [told(&first, Some(0)), told(&published, Some(1)), told(&published, None)] {
        assert_eq!(next(&published, &machines, Some(AuthorityRequest::Renew), 2), published);
    }
    let knowing = told(&published, Some(0));
    assert_eq!(next(&published, &knowing, None, 2), published, "nobody asked, and media know the old one only");
    for (machines, request) in
        [(&knowing, AuthorityRequest::Renew), (&told(&first, Some(9)), AuthorityRequest::TakeOver)]
    {
        let taken_over = next(&published, machines, Some(request), 3);
        assert_eq!((&taken_over.authority, &taken_over.successor), (&successor, &None));
        assert!(trusts(&published.bundle(), &taken_over, "localhost", after(3)));
    }
    // In its last year the authority is replaced without a request.
    let late = AUTHORITY_DAYS - SUCCESSOR_ISSUES_DAYS + 1;
    assert_eq!(next(&published, &told(&published, Some(1)), None, late).authority, first.authority);
    assert_eq!(next(&published, &knowing, None, late).authority, successor);
    let last = AUTHORITY_DAYS - LAST_ISSUE_DAYS + 1;
    assert_eq!(next(&published, &told(&published, Some(1)), None, last).authority, successor);
}

#[test]
fn the_former_address_is_certified_until_all_machines_know_the_new_one() {
    let material = renew(None, &hosts(), 0).unwrap();
    let new: Vec<String> = ["ros.example.org", "127.0.0.1", "localhost"].map(String::from).to_vec();
    let renewed = |current: &TlsMaterial, behind, day| {
        let machines = InstalledMachines { bundle: current.bundle(), behind };
        renewed(Some(current), &new, &machines, None, after(day)).unwrap()
    };
    let moved = renewed(&material, None, 1);
    for host in ["10.0.2.2", "ros.example.org"] {
        assert!(trusts(&material.bundle(), &moved, host, after(1)), "{host}");
    }
    let still = renewed(&moved, Some(3), 70);
    assert!(still != moved && trusts(&material.bundle(), &still, "10.0.2.2", after(70)));
    assert_eq!(renewed(&still, Some(0), 71), still, "no certificate is issued for that alone");
    let after_all = renewed(&still, Some(0), 140);
    assert!(!trusts(&material.bundle(), &after_all, "10.0.2.2", after(140)));
    assert!(trusts(&material.bundle(), &after_all, "ros.example.org", after(140)));
}
