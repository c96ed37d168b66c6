//! A medium without registration: a person answers at the serial console, and no operator is needed.

use harness::disk::{Disk, GIB};
use harness::firmware::Firmware;
use harness::machine::{Drive, Machine, MachineSpec, Medium};
use harness::milestone::Milestone;
use harness::paths;
use harness::scratch::Scratch;
use harness::ssh::SshKey;
use std::time::Duration;

/// A busy host takes several times as long as an idle one.
const STARTED: Duration = Duration::from_secs(300);
const INSTALLED: Duration = Duration::from_secs(900);
const ANSWERED: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn vm_a_person_installs_at_the_serial_console() {
    let scratch = Scratch::new("interactive").unwrap();
    let key = SshKey::generate(scratch.path()).unwrap();
    let mut spec = MachineSpec::new(Firmware::Uefi, "PERSON-1");
    spec.disks.push(Disk::empty(scratch.path(), "root", 4 * GIB).unwrap());
    spec.medium = Some(Medium { file: paths::iso().unwrap(), drive: Drive::Cd });
    let mut machine = Machine::assemble(&scratch.folder("machine").unwrap(), spec).await.unwrap();
    machine.power_on().await.unwrap();

    let public_key = format!("{}\r", key.public);
    let mut patience = STARTED;
    for (prompt, answer) in [
        ("Disk to install to", "nonsense\r"),
        ("Disk to install to", "1\r"),
        ("Configuration URL", "\r"),
        ("SSH key:", public_key.as_str()),
        ("SSH key:", "\r"),
        ("Role in a cluster", "\r"),
        ("Password of root", "s3cret\r"),
        ("The same again", "s3cret\r"),
        ("Type vda to install", "vda\r"),
    ] {
        machine.console().wait_for_prompt(prompt, patience).await.unwrap();
        machine.console().type_text(answer).unwrap();
        patience = ANSWERED;
    }
    machine.wait_for_milestone(Milestone::Rebooting, INSTALLED).await.unwrap();
    machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();

    let shown = machine.console().lines();
    assert!(!shown.iter().any(|line| line.text.contains("s3cret")), "the password was shown");
    let status = key.run("root", machine.ssh_port(), "ros-installer status --output json", STARTED).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["slot"], &status["operator"]), (&"A".into(), &serde_json::Value::Null));
}
