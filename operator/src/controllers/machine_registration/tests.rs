//! Tests of `controllers::machine_registration`.

use super::fetch::read_authorities;
use super::*;
use crate::media::network_boot::BootListener;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::Authorities;
use api::{Conditions, MachineRegistrationStatus, condition_type};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::cell::Cell;

fn found() -> Found {
    Found {
        endpoint: Endpoint { server_url: "https://ros".into(), ca_bundle: "PEM".into() },
        machines: Some(2),
        machines_behind: Some(1),
        most: None,
        authorities: None,
        vendors: Authorities::default(),
        media: Some(Vec::new()),
        network_media: Some(Vec::new()),
        boot_listener: None,
        now: Time(Timestamp::from_second(1_800_000_000).unwrap()),
    }
}
fn object(spec: serde_json::Value) -> MachineRegistration {
    let mut object = MachineRegistration::new("door", serde_json::from_value(spec).unwrap());
    object.metadata.generation = Some(3);
    object
}
fn status_of(object: &MachineRegistration, found: &Found) -> MachineRegistrationStatus {
    build(object, found, validate(object, found).as_ref(), || "t".repeat(54).parse().unwrap())
}

#[test]
fn a_new_registration_gets_a_token_and_stays_unchanged_afterwards() {
    let mut object = object(json!({}));
    let status = status_of(&object, &found());
    assert!(status.conditions.holds(condition_type::READY));
    assert!(status.registration_url.as_ref().unwrap().ends_with(&"t".repeat(54)));
    assert_eq!((status.observed_generation, status.machines, status.machines_behind), (Some(3), 2, 1));
    object.status = Some(status.clone());
    let told = Registration::of(&object).operator_settings(&found().endpoint).unwrap();
    assert_eq!(status.settings_revision.as_deref(), Some(told.revision.as_str()));
    object.status = Some(status.clone());
    let later = Found { now: Time(Timestamp::from_second(1_800_009_999).unwrap()), ..found() };
    let again = build(&object, &later, None, || unreachable!("the token is kept"));
    assert_eq!(again, status);
}

#[test]
fn boot_urls_have_a_token_of_their_own_while_there_is_a_listener() {
    let mut object = object(json!({}));
    let listener = BootListener { url: None, port: 8080 };
    let media = || Some(vec!["a.iso".to_owned()]);
    let on = Found { boot_listener: Some(listener), network_media: media(), media: media(), ..found() };
    let tokens = Cell::new(b'a');
    let next = |object: &MachineRegistration, found: &Found| {
        build(object, found, None, || {
            tokens.set(tokens.get() + 1);
            char::from(tokens.get()).to_string().repeat(54).parse().unwrap()
        })
    };
    let status = next(&object, &on);
    let boot_token = status.boot_token.clone().unwrap();
    assert!(
        Some(&boot_token) != status.registration_token.as_ref() && Some(&boot_token) != status.installed_token.as_ref()
    );
    assert_eq!(
        status.boot_urls.as_ref().unwrap()["a.iso"].ipxe,
        format!("http://ros:8080/boot/{boot_token}/a.iso/boot.ipxe")
    );
    object.status = Some(status.clone());
    assert_eq!(next(&object, &on), status);
    let unread =
        Found { network_media: None, media: None, ..Found { boot_listener: on.boot_listener.clone(), ..found() } };
    assert_eq!(next(&object, &unread), status, "the URLs stay while the media are read again");
    object.status.as_mut().unwrap().boot_token = None;
    let renewed = next(&object, &on);
    assert!(renewed.boot_token != status.boot_token && renewed.boot_urls != status.boot_urls);
    assert_eq!((&renewed.registration_token, &renewed.media_urls), (&status.registration_token, &status.media_urls));
    object.status = Some(renewed);
    let off = next(&object, &found());
    assert_eq!((off.boot_token, off.boot_urls), (None, None));
}

#[test]
fn too_many_authorities_are_named_and_no_settings_are_sent() {
    let authority = |number: usize| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {number}"));
        params.not_after = rcgen::date_time_ymd(2030 + i32::try_from(number).unwrap(), 1, 1);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let of = |count: usize| {
        let ca_bundle = (0..count).rev().map(authority).collect();
        let status =
            status_of(&object(json!({})), &Found { endpoint: Endpoint { ca_bundle, ..found().endpoint }, ..found() });
        assert!(status.conditions.holds(condition_type::READY), "machines register all the same");
        (status.settings_revision, status.conditions.find(condition_type::SETTINGS_NOT_SENT).cloned())
    };
    assert!(matches!(of(16), (Some(_), None)));
    let (revision, condition) = of(18);
    let condition = condition.unwrap();
    assert_eq!((revision, &*condition.reason), (None, reason::TOO_MANY_AUTHORITIES));
    let message = &condition.message;
    for words in ["18", "remove 2", "CN=authority 0 (until 2030-01-01", "CN=authority 1 ", "ca.crt"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert!(!message.contains("CN=authority 2 "), "{message}");
}

#[test]
fn media_are_listed_and_kept_while_the_media_are_not_known() {
    let listing = |names: &[&str]| Found { media: Some(names.iter().map(|n| (*n).to_owned()).collect()), ..found() };
    let mut object = object(json!({}));
    let status = status_of(&object, &listing(&["a.iso", "b.iso"]));
    let urls = status.media_urls.clone().unwrap();
    let token = "t".repeat(54);
    assert_eq!(urls["b.iso"], format!("https://ros/v1-rancheros/media/{token}/b.iso"));
    object.status = Some(status.clone());
    assert_eq!(status_of(&object, &Found { media: None, ..found() }), status);

    let fewer = status_of(&object, &listing(&["b.iso"]));
    assert_eq!(fewer.media_urls.unwrap().into_keys().collect::<Vec<_>>(), ["b.iso"]);
    assert_eq!(status_of(&object, &listing(&[])).media_urls, None);
}

#[test]
fn every_problem_has_its_reason() {
    let cases = [
        (json!({"machineName": "${"}), reason::INVALID_TEMPLATE),
        (json!({"cloudConfig": {"a": "x".repeat(300_000)}}), reason::CLOUD_CONFIG_TOO_LARGE),
        (json!({"expiresAt": "2020-01-01T00:00:00Z"}), reason::EXPIRED),
        (json!({"maxMachines": 2}), reason::FULL),
        (json!({"attestation": {"ekCertificate": "Required"}}), reason::TRUST_MISSING),
    ];
    for (spec, reason) in cases {
        let object = object(spec);
        let status = status_of(&object, &Found { most: object.spec.max_machines, ..found() });
        let ready = status.conditions.find(condition_type::READY).unwrap();
        assert_eq!(ready.reason, reason);
        assert!(status.conditions.holds(condition_type::STALLED));
    }
    let with_room = Found { most: Some(3), ..found() };
    assert!(status_of(&object(json!({})), &with_room).conditions.holds(condition_type::READY));
    let required = object(json!({"attestation": {"ekCertificate": "Required"}}));
    let with_vendors = Found { vendors: Authorities::new(vec![vec![0]]), ..found() };
    assert!(status_of(&required, &with_vendors).conditions.holds(condition_type::READY));
}

#[test]
fn keys_of_a_cloud_config_that_are_not_applied_are_named() {
    let condition = |spec: serde_json::Value| {
        let status = status_of(&object(spec), &found());
        assert!(status.conditions.holds(condition_type::READY));
        status.conditions.find(condition_type::CLOUD_CONFIG_APPLICABLE).cloned()
    };
    assert!(condition(json!({})).is_none());
    let good = condition(json!({"cloudConfig": {"hostname": "h", "rancheros": {"install": {"device": "/dev/vda"}}}}));
    assert_eq!(good.unwrap().reason, reason::ALL_KEYS_APPLIED);
    let wrong =
        json!({"pakages": ["vim"], "users": [{"name": "u", "uid": "s3cret"}], "rancheros": {"install": {"devcie": 1}}});
    let wrong = condition(json!({"cloudConfig": wrong})).unwrap();
    assert_eq!(wrong.reason, reason::KEYS_NOT_APPLIED);
    assert!(wrong.message.ends_with(": users[0].uid, pakages, rancheros.install.devcie"), "{}", wrong.message);
}

#[test]
fn a_nearly_full_registration_has_a_condition_and_still_admits() {
    let of = |machines, most| status_of(&object(json!({})), &Found { machines: Some(machines), most, ..found() });
    for (machines, most, nearly) in
        [(8_999, Some(10_000), false), (9_000, Some(10_000), true), (10_000, Some(10_000), true), (9_000, None, false)]
    {
        let status = of(machines, most);
        assert_eq!(status.conditions.holds(condition_type::NEARLY_FULL), nearly, "{machines}");
        assert_eq!(status.conditions.holds(condition_type::READY), machines < 10_000);
    }
    let message = of(9_000, Some(10_000)).conditions.find(condition_type::NEARLY_FULL).unwrap().message.clone();
    assert!(message.contains("9000 of 10000") && message.contains("spec.maxMachines"), "{message}");
}

#[test]
fn a_url_inside_the_cluster_only_names_the_option_to_set() {
    let endpoint = Endpoint { server_url: "https://ros.ns.svc:8443".into(), ca_bundle: "PEM".into() };
    let status = status_of(&object(json!({})), &Found { endpoint, ..found() });
    let ready = status.conditions.find(condition_type::READY).unwrap();
    assert!(ready.message.contains("serverURL"), "{}", ready.message);
}

#[test]
fn authorities_are_read_from_every_key() {
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let secret = |text: &str| Secret {
        data: Some([("a".into(), ByteString(text.into())), ("b".into(), ByteString(pem.into()))].into()),
        ..Secret::default()
    };
    assert_eq!(read_authorities("s", Some(&secret(&pem.repeat(2)))).unwrap().len(), 3);
    assert_eq!(read_authorities("s", None).unwrap_err().reason, reason::TRUST_MISSING);
    let cut = read_authorities("s", Some(&secret("-----BEGIN CERTIFICATE-----\nAAAA")));
    assert_eq!(cut.unwrap_err().reason, reason::TRUST_MALFORMED);
    assert_eq!(read_authorities("s", Some(&Secret::default())).unwrap_err().reason, reason::TRUST_MALFORMED);
}

#[test]
fn a_registration_is_reconciled_when_it_expires() {
    let object = object(json!({"expiresAt": "2027-01-15T08:01:00Z"}));
    assert_eq!(requeue_after(&object, &found()), Action::requeue(Duration::from_secs(61)));
    assert_eq!(requeue_after(&self::object(json!({})), &found()), Action::await_change());
}
