//! `openssl` judges our keys and signatures, and we judge those that it makes.

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::LazyLock;
use tempfile::TempDir;

const MANIFEST: &[u8] = b"{\"version\": \"1.0.0\"}\n";

static KEY: LazyLock<PrivateKey> = LazyLock::new(PrivateKey::generate);
static SIGNATURE: LazyLock<Vec<u8>> = LazyLock::new(|| KEY.sign(MANIFEST));

fn trusting(keys: &[&PrivateKey]) -> TrustedKeys {
    let mut trusted = TrustedKeys::default();
    for key in keys {
        trusted.add_pem("a test's key", key.public_key().to_pem().as_bytes()).unwrap();
    }
    trusted
}

fn signed(keys: &[&PrivateKey]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for key in keys {
        sign(folder.path(), key);
    }
    folder
}

fn sign(folder: &Path, key: &PrivateKey) {
    write(folder, key.public_key().id(), &key.sign(MANIFEST)).unwrap();
}

/// Runs `openssl` in `folder`. Returns whether it succeeded.
fn openssl(folder: &Path, arguments: &str) -> bool {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output();
    output.expect("openssl is installed (tools/install-packages)").status.success()
}

#[test]
fn openssl_takes_our_keys_and_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    put("private.pem", KEY.to_pem().as_bytes());
    put("public.pem", KEY.public_key().to_pem().as_bytes());
    put("release.json", MANIFEST);
    sign(folder.path(), &KEY);
    let check =
        format!("dgst -sha256 -verify public.pem -signature {SIGNATURES}/{} release.json", KEY.public_key().id());
    assert!(openssl(folder.path(), &check));
    assert!(openssl(folder.path(), "pkey -in private.pem -pubout -out derived.pem"));
    let derived = fs::read(folder.path().join("derived.pem")).unwrap();
    assert_eq!(String::from_utf8(derived).unwrap(), KEY.public_key().to_pem());
    put("release.json", b"{}");
    assert!(!openssl(folder.path(), &check));
}

#[test]
fn we_take_the_keys_and_signatures_of_openssl() {
    for make in
        ["genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out k", "ecparam -name prime256v1 -genkey -out k"]
    {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        fs::write(folder.path().join("release.json"), MANIFEST).unwrap();
        assert!(openssl(folder.path(), make));
        assert!(openssl(folder.path(), "pkey -in k -pubout -out p"));
        assert!(openssl(folder.path(), "pkey -pubin -in p -outform DER -out p.der"));
        let key = PublicKey::parse_pem("p", &read("p")).unwrap().remove(0);
        assert_eq!(key.to_der(), read("p.der"));
        assert_eq!(key.id().to_string(), crate::digest::of_bytes(&read("p.der"))[..16]);

        fs::create_dir(folder.path().join(SIGNATURES)).unwrap();
        assert!(openssl(folder.path(), &format!("dgst -sha256 -sign k -out {SIGNATURES}/{} release.json", key.id())));
        let private = PrivateKey::parse_pem("k", &read("k")).unwrap();
        assert_eq!(private.public_key(), &key);
        let trust = verify(folder.path(), MANIFEST, &trusting(&[&private])).unwrap();
        assert_eq!(trust, Trust::Signed { key_id: key.id() });
    }
}

#[test]
fn keys_of_other_kinds_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out k",
        "genpkey -algorithm ED25519 -out k",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out k",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit -out k",
    ];
    for kind in kinds {
        assert!(openssl(folder.path(), kind), "{kind}");
        assert!(openssl(folder.path(), "pkey -in k -pubout -out p"));
        let public = fs::read(folder.path().join("p")).unwrap();
        let error = TrustedKeys::default().add_pem("/keys/p.pem", &public).unwrap_err();
        assert!(error.to_string().contains("/keys/p.pem") && error.reason() == "KeyUnusable", "{kind}: {error}");
    }
    assert!(openssl(folder.path(), "ec -in k -pubout -conv_form compressed -param_enc named_curve -out p"));
    TrustedKeys::default().add_pem("p", &fs::read(folder.path().join("p")).unwrap()).unwrap_err();
    assert!(openssl(folder.path(), "pkey -in k -aes128 -passout pass:x -out locked"));
    let locked = fs::read(folder.path().join("locked")).unwrap();
    let error = PrivateKey::parse_pem("locked", &locked).unwrap_err().to_string();
    assert!(error.contains("locked") && error.contains("password"), "{error}");
}

#[test]
fn a_fleet_moves_from_one_key_to_the_next() {
    let (old, new) = (PrivateKey::generate(), PrivateKey::generate());
    let by_old = signed(&[&old]);
    let by_both = signed(&[&old, &new]);
    let by_new = signed(&[&new]);
    let accepted = |folder: &TempDir, keys: &[&PrivateKey]| verify(folder.path(), MANIFEST, &trusting(keys));
    let by = |key: &PrivateKey| Trust::Signed { key_id: key.public_key().id() };

    // Machines know the old key. The release that brings them the new one is signed by both or by the old one.
    assert_eq!(accepted(&by_old, &[&old]).unwrap(), by(&old));
    assert_eq!(accepted(&by_both, &[&old]).unwrap(), by(&old));
    // They know both: releases by either are taken.
    assert_eq!(accepted(&by_old, &[&old, &new]).unwrap(), by(&old));
    assert_eq!(accepted(&by_new, &[&old, &new]).unwrap(), by(&new));
    // They know only the new one: what only the old one signed is refused.
    assert_eq!(accepted(&by_both, &[&new]).unwrap(), by(&new));
    let error = accepted(&by_old, &[&new]).unwrap_err();
    assert_eq!(error.reason(), "SignatureInvalid");
    let text = error.to_string();
    assert!(text.contains(&old.public_key().id().to_string()), "{text}");
    assert!(text.contains(&new.public_key().id().to_string()), "{text}");
}

#[test]
fn what_is_not_signed_is_taken_only_where_there_is_no_key() {
    let none = tempfile::tempdir().unwrap();
    assert_eq!(verify(none.path(), MANIFEST, &TrustedKeys::default()).unwrap(), Trust::UnsignedAllowed);
    assert_eq!(verify(none.path(), MANIFEST, &trusting(&[&KEY])).unwrap_err().reason(), "SignatureMissing");
    fs::create_dir(none.path().join(SIGNATURES)).unwrap();
    fs::write(none.path().join(SIGNATURES).join("README"), "").unwrap();
    assert_eq!(verify(none.path(), MANIFEST, &trusting(&[&KEY])).unwrap_err().reason(), "SignatureMissing");
}

#[test]
fn a_signature_of_something_else_is_refused_and_named() {
    let folder = signed(&[&KEY]);
    let id = KEY.public_key().id();
    let error = verify(folder.path(), b"{}", &trusting(&[&KEY])).unwrap_err();
    assert!(matches!(&error, SignatureError::Invalid { damaged, .. } if *damaged == [id]), "{error}");
    let path = folder.path().join(SIGNATURES).join(id.to_string());
    // Another key's signature under the name of a trusted one, none at all, and one with something behind it.
    for bytes in [PrivateKey::generate().sign(MANIFEST), Vec::new(), [&SIGNATURE[..], &[0; 200]].concat()] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(verify(folder.path(), MANIFEST, &trusting(&[&KEY])).unwrap_err().reason(), "SignatureInvalid");
    }
}

#[test]
fn many_files_and_odd_ones_do_no_harm() {
    let folder = signed(&[&KEY]);
    let signatures = folder.path().join(SIGNATURES);
    for number in 0..1000 {
        fs::write(signatures.join(format!("{number:016x}")), "x").unwrap();
    }
    verify(folder.path(), MANIFEST, &trusting(&[&KEY])).unwrap();
    let error = verify(folder.path(), MANIFEST, &trusting(&[&PrivateKey::generate()])).unwrap_err();
    assert!(error.to_string().len() < 1000, "{error}");
    let path = signatures.join(KEY.public_key().id().to_string());
    fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    assert_eq!(verify(folder.path(), MANIFEST, &trusting(&[&KEY])).unwrap_err().reason(), "SignatureUnreadable");
}

#[test]
fn keys_come_from_folders() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = TrustedKeys::default();
    keys.add_folder(&folder.path().join("none")).unwrap();
    let other = PrivateKey::generate();
    let both = format!("A comment.\n{}{}", KEY.public_key().to_pem(), other.public_key().to_pem());
    fs::write(folder.path().join("a.pem"), &both).unwrap();
    fs::write(folder.path().join("b.pem"), &both).unwrap();
    fs::write(folder.path().join("c.txt"), "no key").unwrap();
    keys.add_folder(folder.path()).unwrap();
    let ids: Vec<KeyId> = keys.iter().map(PublicKey::id).collect();
    assert_eq!(ids, [KEY.public_key().id(), other.public_key().id()]);
    for unusable in ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n", &KEY.to_pem()] {
        fs::write(folder.path().join("d.pem"), unusable).unwrap();
        let error = keys.add_folder(folder.path()).unwrap_err();
        assert!(matches!(&error, SignatureError::KeyUnusable { file, .. } if file.ends_with("d.pem")), "{error}");
    }
}

#[test]
fn the_number_of_keys_and_their_size_are_bounded() {
    let mut keys = TrustedKeys::default();
    for _ in 0..TrustedKeys::MOST {
        keys.add_pem("f", PrivateKey::generate().public_key().to_pem().as_bytes()).unwrap();
    }
    assert!(keys.add_pem("f", KEY.public_key().to_pem().as_bytes()).is_err());
    let long = " ".repeat(20_000) + &KEY.public_key().to_pem();
    assert!(PublicKey::parse_pem("f", long.as_bytes()).is_err());
}

#[test]
fn a_key_is_not_shown() {
    assert_eq!(format!("{:?}", *KEY), format!("PrivateKey({})", KEY.public_key().id()));
}

proptest! {
    #[test]
    fn no_bytes_are_taken_for_a_signature(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(!KEY.public_key().verifies(MANIFEST, &bytes));
    }

    #[test]
    fn a_changed_byte_of_a_signature_is_refused(at: prop::sample::Index, change in 1_u8..) {
        let mut signature = SIGNATURE.clone();
        let at = at.index(signature.len());
        signature[at] ^= change;
        prop_assert!(!KEY.public_key().verifies(MANIFEST, &signature));
    }

    #[test]
    fn a_cut_signature_is_refused(at: prop::sample::Index) {
        prop_assert!(!KEY.public_key().verifies(MANIFEST, &SIGNATURE[..at.index(SIGNATURE.len())]));
    }

    #[test]
    fn no_text_makes_the_parsers_of_pem_panic(text: Vec<u8>) {
        let _ = PublicKey::parse_pem("f", &text);
        prop_assert!(PrivateKey::parse_pem("f", &text).is_err());
    }

    #[test]
    fn a_changed_pem_is_refused_or_names_a_key(at: prop::sample::Index, byte: u8) {
        for pem in [KEY.public_key().to_pem(), KEY.to_pem()] {
            let mut pem = pem.into_bytes();
            let at = at.index(pem.len());
            pem[at] = byte;
            let _ = PrivateKey::parse_pem("f", &pem);
            for key in PublicKey::parse_pem("f", &pem).into_iter().flatten() {
                prop_assert_eq!(&PublicKey::from_der(&key.to_der()).unwrap(), &key);
            }
        }
    }

    #[test]
    fn der_of_a_key_has_one_form(at: prop::sample::Index, change in 1_u8..) {
        let mut der = KEY.public_key().to_der();
        let at = at.index(der.len());
        der[at] ^= change;
        if let Ok(key) = PublicKey::from_der(&der) {
            prop_assert_eq!(&key.to_der(), &der);
            prop_assert!(key != *KEY.public_key());
        }
        der.push(0);
        prop_assert!(PublicKey::from_der(&der).is_err());
    }

    #[test]
    fn a_key_id_is_read_as_it_is_written(text in "[0-9a-fA-Fg]{15,17}") {
        if let Ok(id) = text.parse::<KeyId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
