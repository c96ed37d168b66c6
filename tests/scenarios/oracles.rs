//! Programs of other origin check our results: cloud-init, dmidecode, tpm2-tools, OpenSSL, kured. `install.rs` and the unit
//! tests of the crate `disk` check disks in the same way.

use cloud_config::CloudConfig;
use harness::clusters::go_program::GoProgram;
use harness::fakes::software_machine::usual_report;
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::world::World;
use qemu::paths;
use qemu::process::{printed, succeeded};
use qemu::scratch::Scratch;
use qemu::swtpm::{EkCertificate, Tpm};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("starting {program}: {error}"))
}

fn succeeds(program: &str, arguments: &[&str]) -> String {
    succeeded(Command::new(program).args(arguments)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_init_accepts_what_we_show_and_serve() {
    let example = fs::read_to_string(paths::workspace().join("examples/machine-registration.yaml")).unwrap();
    let mut example: Value = serde_yaml::from_str(&example).unwrap();
    let spec = example["spec"].take();
    let world = World::start("oracle-cloud-init", spec.clone()).await.unwrap();
    let served = world.operator.fetch(&world.url().unwrap()).await.unwrap();
    let tpm = SoftwareTpm::new(KeyKind::P256).unwrap();
    let answer = world.endpoint().await.unwrap().register(&tpm, usual_report("SN-1")).await.unwrap();
    let shown: CloudConfig = serde_json::from_value(spec["cloudConfig"].clone()).unwrap();
    for (name, document) in
        [("shown", shown.to_yaml()), ("served", served), ("answered", answer.cloud_config.to_yaml())]
    {
        let file = world.path().join(format!("{name}.yaml"));
        cloud_init_accepts(&file, &document);
        let mut without_ours = CloudConfig::parse(&document).unwrap();
        without_ours.0.retain(|key, _| !is_ours(key));
        without_ours.0.insert("hostname".to_owned(), json!("edge"));
        cloud_init_accepts(&file, &without_ours.to_yaml());
    }
    let wrong = world.path().join("wrong.yaml");
    fs::write(&wrong, "#cloud-config\nusers: 7\n").unwrap();
    let wrong = run("cloud-init", &["schema", "--config-file", wrong.to_str().unwrap()]);
    assert!(!wrong.status.success(), "a cloud-init that accepts everything is no oracle");
}

/// Newer releases of cloud-init report unknown keys. Only this complaint is allowed.
fn cloud_init_accepts(file: &Path, document: &str) {
    fs::write(file, document).unwrap();
    let output = run("cloud-init", &["schema", "--config-file", file.to_str().unwrap()]);
    let said = printed(&output);
    let has_ours = CloudConfig::parse(document).unwrap().0.keys().any(|key| is_ours(key));
    let complains_of_ours = has_ours && said.contains("Additional properties are not allowed ('rancher");
    assert!(output.status.success() || complains_of_ours, "{document}{said}");
}

fn is_ours(key: &str) -> bool {
    matches!(key, "rancheros" | "rancherd")
}

#[test]
fn dmidecode_reads_the_same_fields() {
    for name in ["smbios-2.8.dump", "smbios-3.0.dump"] {
        let dump = paths::workspace().join("installer/testdata").join(name);
        let theirs = succeeds("dmidecode", &["--from-dump", dump.to_str().unwrap()]);
        // dmidecode puts the structure table at this offset of a dump.
        let ours = machine::smbios::parse(fs::read(&dump).unwrap()[0x20..].to_vec());
        for (section, fields) in &ours.0 {
            for (field, value) in fields {
                assert_eq!(in_dmidecode(&theirs, section, field).as_deref(), Some(&*ascii(value)), "{section}/{field}");
            }
        }
        // Names and labels of machines are made from these fields.
        let system = &ours.0["System Information"];
        for field in ["Manufacturer", "Product Name", "Version", "Serial Number", "SKU Number", "Family", "UUID"] {
            assert!(system.contains_key(field), "{name} has no {field}");
        }
        assert_eq!(system["Serial Number"], "SN 0042-äöü");
    }
}

/// The field in the first structure of the name, with single blanks.
fn in_dmidecode(text: &str, section: &str, field: &str) -> Option<String> {
    let structure = text.lines().skip_while(|line| *line != section).take_while(|line| !line.is_empty());
    let value =
        structure.filter_map(|line| line.trim().strip_prefix(field)?.strip_prefix(": ").map(str::to_owned)).next()?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The text as dmidecode shows it: a full stop for each byte beyond ASCII.
fn ascii(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii() { char::from(byte) } else { '.' }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tpm2_tools_and_openssl_find_the_same_identity_and_its_certificate() {
    let scratch = Scratch::new("oracle-tpm").unwrap();
    let tpm = Tpm::for_programs(&scratch.folder("tpm").unwrap(), EkCertificate::Present).await.unwrap();
    let tcti = tpm.tcti();
    let installer = paths::program("ros-installer").unwrap();
    let hash = succeeds(installer.to_str().unwrap(), &["tpm-hash", "--tcti", &tcti]);

    let file = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let [context, public, der, certificate, pem, key, issuers] =
        ["ek.ctx", "ek.pub", "ek.der", "ek.crt", "ek.pem", "key.der", "issuers.pem"].map(file);
    succeeds("tpm2_createek", &["--tcti", &tcti, "-G", "rsa", "-c", &context, "-u", &public]);
    // The context of tpm2_createek stays loaded, and swtpm has three slots.
    succeeds("tpm2_flushcontext", &["--tcti", &tcti, "-t"]);
    succeeds("tpm2_readpublic", &["--tcti", &tcti, "-c", &context, "-f", "der", "-o", &der]);
    let theirs = succeeds("openssl", &["dgst", "-sha256", "-r", &der]);
    assert_eq!(theirs.split_whitespace().next(), Some(hash.trim()));

    succeeds("tpm2_nvread", &["--tcti", &tcti, "0x01c00002", "-o", &certificate]);
    succeeds("openssl", &["x509", "-inform", "DER", "-in", &certificate, "-out", &pem]);
    fs::write(&issuers, tpm.issuers().unwrap()).unwrap();
    let verified = succeeds("openssl", &["verify", "-CAfile", &issuers, &pem]);
    assert!(verified.contains(": OK"), "{verified}");
    fs::write(file("public.pem"), succeeds("openssl", &["x509", "-in", &pem, "-noout", "-pubkey"])).unwrap();
    succeeds("openssl", &["pkey", "-pubin", "-in", &file("public.pem"), "-outform", "DER", "-out", &key]);
    assert_eq!(fs::read(&key).unwrap(), fs::read(&der).unwrap(), "the certificate is for another key");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_trusts_the_operator_by_its_authority_and_by_nothing_else() {
    let world = World::start("oracle-tls", json!({})).await.unwrap();
    let ca = world.path().join("ca.pem");
    fs::write(&ca, world.operator.ca().await.unwrap()).unwrap();
    let address = world.operator.local_url("").replace("https://", "");
    let connect = ["s_client", "-connect", &address, "-verify_return_error", "-verify_ip", "127.0.0.1"];
    let trusted = succeeds("openssl", &[&connect[..], &["-CAfile", ca.to_str().unwrap()]].concat());
    assert!(trusted.contains("Verify return code: 0 (ok)"), "{trusted}");
    let untrusted = run("openssl", &connect);
    assert!(!untrusted.status.success(), "trusted by the host's authorities: {}", printed(&untrusted));
}

/// kured's package, which System Upgrade Controller asks whether a window is open.
const TIMEWINDOW: GoProgram = GoProgram {
    name: "timewindow",
    package: ".",
    linker_flags: "-s -w",
    links: &["timewindow"],
    effort: "kured's windows, seconds",
};

/// The operator's own tests compare its windows with the same file.
#[test]
fn kured_opens_the_windows_of_plans_when_we_say() {
    let file = paths::workspace().join("operator/testdata/windows.json");
    let cases: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let part = |field: &str| -> Vec<Value> {
        cases["windows"].as_array().unwrap().iter().map(|case| case[field].clone()).collect()
    };
    let asked = |windows: Vec<Value>| {
        let question = json!({"from": cases["from"], "minutes": cases["minutes"], "windows": windows});
        let program = TIMEWINDOW.folder().unwrap().join("timewindow");
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    };
    assert_eq!(asked(part("plan")), part("open"));
    // What users write is not always what the controller opens: the reason why windows are completed.
    assert_ne!(asked(part("given")), part("open"));
}
