//! `ros-installer register` as a person at a console uses it, against a running operator and a TPM from the factory.

use harness::certificates::Authority;
use harness::paths;
use harness::site::Site;
use harness::swtpm::{EkCertificate, Tpm};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Output};

/// A machine that is no machine: this host, with a TPM of its own.
struct Host {
    tpm: Tpm,
    ca: PathBuf,
}

impl Host {
    async fn of(site: &Site) -> Self {
        let tpm = Tpm::for_programs(&site.scratch.folder("tpm").unwrap(), EkCertificate::Present).await.unwrap();
        let ca = site.scratch.folder("medium").unwrap().join("ca.pem");
        std::fs::write(&ca, site.operator.ca().await.unwrap()).unwrap();
        Self { tpm, ca }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let program = paths::program("ros-installer").unwrap();
        Command::new(program).args(arguments).env("TCTI", self.tpm.tcti()).output().unwrap()
    }

    fn register(&self, url: &str, more: &[&str]) -> Output {
        let ca = self.ca.to_str().unwrap();
        let mut arguments = vec!["register", "--once", "--registration-url", url, "--registration-ca-cert", ca];
        arguments.extend(more);
        self.run(&arguments)
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_installer_registers_its_machine_and_prints_the_configuration() {
    let site = Site::start("installer-registers", json!({"cloudConfig": {"hostname": "edge-1"}})).await.unwrap();
    let host = Host::of(&site).await;
    let output = host.register(&site.url().unwrap(), &["--output", "json"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["cloudConfig"]["hostname"], "edge-1");

    let [inventory] = &site.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    let hash = host.run(&["tpm-hash"]);
    assert_eq!(inventory["spec"]["tpmHash"], String::from_utf8_lossy(&hash.stdout).trim());
    assert_eq!(inventory["status"]["hardware"]["tpm"]["manufacturer"], "IBM");
    let debug = host.register(&site.url().unwrap(), &["--debug"]);
    let token = site.url().unwrap().rsplit('/').next().unwrap().to_owned();
    assert!(!String::from_utf8_lossy(&debug.stderr).contains(&token), "the token was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_has_its_own_exit_status() {
    let site = Site::start("installer-refused", json!({})).await.unwrap();
    let mut host = Host::of(&site).await;
    let url = site.url().unwrap();
    let (base, _) = url.rsplit_once('/').unwrap();

    let unknown = host.register(&format!("{base}/{}", "a".repeat(54)), &[]);
    assert_eq!(unknown.status.code(), Some(10));
    assert!(
        said(&unknown).contains("UnknownToken") && said(&unknown).contains("make a new medium"),
        "{}",
        said(&unknown)
    );

    let malformed = host.register(&format!("{base}/x"), &[]);
    assert_eq!(malformed.status.code(), Some(10));
    assert!(said(&malformed).contains("MalformedToken"), "{}", said(&malformed));

    let absent = host.register(&url, &["--tcti", "device:/nonexistent/tpmrm0"]);
    assert_eq!(absent.status.code(), Some(12));
    assert!(said(&absent).contains("switch the TPM on"), "{}", said(&absent));

    std::fs::write(&host.ca, Authority::new("somebody else").unwrap().certificate()).unwrap();
    let foreign = host.register(&url, &[]);
    assert_eq!(foreign.status.code(), Some(1));
    assert!(said(&foreign).contains("is not from the pinned authority"), "{}", said(&foreign));

    host.ca = PathBuf::from("/nonexistent/ca.pem");
    assert_eq!(host.register(&url, &[]).status.code(), Some(11));
}
