//! Tests of `registration`.

use super::*;
use serde_json::json;

fn endpoint() -> Endpoint {
    Endpoint { server_url: "https://ros.example.org".into(), ca_bundle: "PEM".into() }
}
fn with(spec: Value) -> Registration {
    Registration::for_tests("n", "door", serde_json::from_value(spec).unwrap())
}

#[test]
fn the_answer_contains_the_settings_of_registration_and_operator() {
    let door = with(json!({"cloudConfig": {
        "hostname": "a", "rancherd": {"role": "server", "token": "mine"}, "rancheros": {"install": null},
    }}));
    let machine = KnownMachine::default();
    let url = |token: &str| format!("https://ros.example.org/v1-rancheros/registration/{}", token.repeat(54));
    assert_eq!(
        Value::Object(
            door.answer(&endpoint(), TokenScope::KnownMachines, &machine, &SmbiosDocument::default()).unwrap().0
        ),
        json!({
            "hostname": "a",
            "rancherd": {
                "role": "server", "nodeName": "a", "server": "https://ros.example.org", "token": "tpm://",
            },
            "rancheros": {"install": {"automatic": true, "registrationURL": url("i"), "registrationCACert": "PEM"}},
        })
    );
    assert_eq!(
        Value::Object(door.medium_settings(&endpoint()).0),
        json!({"rancheros": {"install": {"registrationURL": url("t"), "registrationCACert": "PEM"}}})
    );
}

fn machine(name: &str, config: Value) -> KnownMachine {
    let mut object = crate::fixtures::inventory(name, json!({"config": config}));
    object.metadata.namespace = Some("n".into());
    KnownMachine::of(object)
}

#[test]
fn the_inventory_adds_a_cloud_config_of_its_own() {
    let door = with(json!({"cloudConfig": {
        "hostname": "a", "timezone": "UTC", "runcmd": ["one", "two"], "rancherd": {"role": "server"},
    }}));
    let edge = machine(
        "edge",
        json!({
            "role": "agent", "kubernetesVersion": "v1.36", "hostname": "b", "timezone": "Europe/Berlin", "runcmd": ["three"],
            "rancheros": {"install": {"device": "/dev/sdb", "automatic": false}}, "rancherd": {"token": "own"},
        }),
    );
    let answer = door.answer(&endpoint(), TokenScope::KnownMachines, &edge, &SmbiosDocument::default()).unwrap().0;
    assert_eq!((&answer["timezone"], &answer["runcmd"]), (&json!("Europe/Berlin"), &json!(["three"])));
    let install = &answer["rancheros"]["install"];
    assert_eq!((&install["device"], &install["automatic"]), (&json!("/dev/sdb"), &json!(true)), "the operator's count");
    assert_eq!(answer["rancherd"]["token"], "tpm://");
    assert_eq!(answer["hostname"], "a", "the registration's counts");
    assert!(
        answer.get("role").is_none() && answer.get("kubernetesVersion").is_none(),
        "they are for joining a cluster"
    );
}

/// Host name and Node name of a machine with this serial number.
fn names(cloud_config: Value, machine: &KnownMachine, serial: &str) -> (String, String) {
    let smbios = serde_json::from_value(json!({"System Information": {"Serial Number": serial}})).unwrap();
    let config = with(json!({"cloudConfig": cloud_config}))
        .answer(&endpoint(), TokenScope::KnownMachines, machine, &smbios)
        .unwrap()
        .0;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&config["hostname"]), text(&config["rancherd"]["nodeName"]))
}

#[test]
fn each_machine_gets_its_own_name() {
    let edge = machine("edge-7-bcdfg", json!({"role": "agent"}));
    let of = |config: Value| names(config, &edge, "S 1: \"x\"\nroot: y");
    let same = |name: &str| (name.to_owned(), name.to_owned());
    assert_eq!(of(json!({})), same("edge-7-bcdfg"));
    assert_eq!(of(json!({"hostname": "", "rancherd": {"role": "server"}})), same("edge-7-bcdfg"));
    assert_eq!(of(json!({"hostname": "pos-${machineName}"})), same("pos-edge-7-bcdfg"));
    // Values from a machine are made valid host names.
    assert_eq!(
        of(json!({"hostname": "shop-${System Information/Serial Number}"})),
        ("shop-S-1-x-root-y".to_owned(), "shop-s-1-x-root-y".to_owned())
    );
    let own = json!({"hostname": "h", "rancherd": {"nodeName": "n-${System Information/Serial Number}"}});
    assert_eq!(of(own), ("h".to_owned(), "n-S-1-x-root-y".to_owned()));
    assert_eq!(names(json!({}), &machine("a", json!({"hostname": "till"})), "1"), same("till"));
    assert_eq!(names(json!({}), &machine("edge.7", json!({})), "1"), same("edge-7"));
    let long = format!("{}.example.org", "a".repeat(62));
    assert_eq!(names(json!({}), &machine(&long, json!({})), "1"), same(&"a".repeat(62)));
}

#[test]
fn the_node_name_is_the_one_that_the_machine_uses() {
    let edge = machine("edge-7", json!({}));
    for (config, host_name) in [
        (json!({"hostname": "a.b.c"}), "a"),
        (json!({"hostname": "${machineName}.example.org"}), "edge-7"),
        (json!({"fqdn": "Shop.example.org"}), "Shop"),
        (json!({"hostname": "a", "fqdn": "b.c"}), "a"),
        (json!({"hostname": "a", "fqdn": "b.c", "prefer_fqdn_over_hostname": "yes"}), "b.c"),
        (json!({"hostname": "a.b.c", "prefer_fqdn_over_hostname": true}), "a.b.c"),
        (json!({"hostname": ["no", "name"]}), "edge-7"),
        (json!({"hostname": " ", "fqdn": "b.c"}), "b"),
    ] {
        let answer = with(json!({"cloudConfig": config}))
            .answer(&endpoint(), TokenScope::KnownMachines, &edge, &SmbiosDocument::default())
            .unwrap();
        // Reads the answer as the machine does.
        let (document, _) = document::Document::read(&answer);
        assert_eq!(document.hostname.as_deref(), Some(host_name), "{config}");
        assert_eq!(answer.0["rancherd"]["nodeName"], host_name.to_lowercase(), "{config}");
    }
    assert_eq!(host_name(&machine("a", json!({"hostname": "till.example.org"}))), "till");
}

#[test]
fn the_revision_of_settings_follows_from_their_content() {
    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let door = with(json!({}));
    let settings = |server_url: &str, bundle: &str| {
        let endpoint = Endpoint { server_url: server_url.into(), ca_bundle: bundle.into() };
        door.operator_settings(&endpoint)
    };
    let first = settings("https://ros", ONE).unwrap();
    assert_eq!(first.authorities, [ONE]);
    assert!(first.registration_url.ends_with(&"i".repeat(54)), "not the token of media");
    assert_eq!(settings("https://ros", &format!("# a comment\n{ONE}")), Some(first.clone()));
    let two = settings("https://ros", &format!("{ONE}{ONE}")).unwrap();
    assert_eq!(two.authorities.len(), 2);
    let moved = settings("https://other", ONE).unwrap();
    assert!(two.revision != first.revision && moved.revision != first.revision);
    assert!(settings("https://ros", "").unwrap().authorities.is_empty());
    assert_eq!(settings("https://ros", &ONE.repeat(17)), None);
}

#[test]
fn a_problem_names_the_field() {
    let door = with(json!({"machineInventoryLabels": {"not a key": "x"}}));
    let problem = door.templates.unwrap_err();
    assert_eq!(problem.reason, reason::INVALID_TEMPLATE);
    assert!(problem.message.contains("machineInventoryLabels[\"not a key\"]"), "{}", problem.message);
    let door = with(json!({"cloudConfig": {"users": [{"name": "${System Information/Seral Number}"}]}}));
    let message = door.templates.unwrap_err().message;
    assert!(message.starts_with("spec.cloudConfig.users[0].name: ") && message.contains("Seral"), "{message}");
    for text in ["m-${System Information/Serial Number", "${Serial Number}"] {
        let door = with(json!({"machineName": text}));
        assert!(door.templates.unwrap_err().message.starts_with("spec.machineName: "), "{text}");
    }
}

#[test]
fn a_configuration_that_is_too_large_is_found_in_advance() {
    let door = with(json!({"cloudConfig": {"write_files": [{"content": "x".repeat(MAX_FRAME)}]}}));
    assert_eq!(check_size(&door, &endpoint()).unwrap_err().reason, reason::CLOUD_CONFIG_TOO_LARGE);
    assert_eq!(check_size(&with(json!({})), &endpoint()), Ok(()));
}
