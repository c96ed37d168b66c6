//! A medium without registration, on a machine with a screen and two serial ports. A person at any of them sees the
//! same and can answer. No operator is needed.

use boot_contract::Milestone;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Drive, Machine, MachineSpec, Medium};
use qemu::paths;
use qemu::scratch::Scratch;
use qemu::ssh::SshKey;
use qemu::wait::{Poll, until};
use std::time::Duration;

/// A busy host takes several times as long as an idle one.
const STARTED: Duration = Duration::from_secs(300);
const INSTALLED: Duration = Duration::from_secs(900);
const ANSWERED: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn vm_a_person_installs_at_any_console() {
    let scratch = Scratch::new("interactive").unwrap();
    let key = SshKey::generate(scratch.path()).unwrap();
    // With this firmware the screen is in text mode, and its text can be read.
    let mut spec = MachineSpec::new(Firmware::Bios, "PERSON-1");
    spec.screen = true;
    spec.disks.push(Disk::empty(scratch.path(), "root", 4 * GIB).unwrap());
    spec.medium = Some(Medium { file: paths::iso().unwrap(), drive: Drive::Cd });
    let mut machine = Machine::assemble(&scratch.folder("machine").unwrap(), spec).await.unwrap();
    machine.power_on().await.unwrap();

    machine.console().wait_for_prompt("Disk to install to", STARTED).await.unwrap();
    machine.console().type_text("nonsense\r").unwrap();
    machine.second_port().wait_for_text("nonsense  (answered on ttyS0)", ANSWERED).await.unwrap();
    on_screen(&machine, "There is no disk").await;
    machine.type_on_keyboard("1\n").unwrap();
    machine.console().wait_for_text("1  (answered on tty1)", ANSWERED).await.unwrap();
    machine.second_port().wait_for_prompt("Configuration URL", ANSWERED).await.unwrap();
    machine.second_port().type_text("\r").unwrap();

    let public_key = format!("{}\r", key.public);
    for (prompt, answer) in [
        ("SSH key:", public_key.as_str()),
        ("SSH key:", "\r"),
        ("Role in a cluster", "\r"),
        ("Password of root", "s3cret\r"),
        ("Repeat the password", "s3cret\r"),
    ] {
        machine.console().wait_for_prompt(prompt, ANSWERED).await.unwrap();
        machine.console().type_text(answer).unwrap();
    }
    machine.console().wait_for_prompt("Type vda to install", ANSWERED).await.unwrap();
    let shown = on_screen(&machine, "Type vda to install").await;
    for text in
        ["--- RancherOS", "installer | Example Systems Edge 100, serial PERSON-1", "/dev/vda", "(answered on ttyS1)"]
    {
        assert!(shown.contains(text) && machine.console().screen().contains(text), "{text:?} in {shown}");
    }
    machine.screenshot("question").unwrap();
    machine.type_on_keyboard("vda\n").unwrap();
    machine.console().wait_for_text("writing     [", INSTALLED).await.unwrap();
    on_screen(&machine, "writing     [").await;
    machine.screenshot("progress").unwrap();
    machine.wait_for_milestone(Milestone::Rebooting, INSTALLED).await.unwrap();
    machine.wait_for_milestone(Milestone::Healthy, INSTALLED).await.unwrap();

    let run = async |command: &str| key.run("root", machine.ssh_port(), command, STARTED).await;
    let status = run("ros-installer status --output json").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["slot"], &status["operator"]), (&"A".into(), &serde_json::Value::Null));
    let login = until("the state above the login on the screen", ANSWERED, async || {
        let shown = run("fold -w 80 /dev/vcs1").await?;
        Ok(if shown.contains("State:       good") { Poll::Ready(shown) } else { Poll::Pending(shown) })
    });
    let login = login.await.unwrap();
    for text in ["RancherOS 0.1.0", "Address:     10.0.2.15 (", "Release:     0.1.0, slot A", " login:"] {
        assert!(login.contains(text), "{text:?} in {login}");
    }
    machine.second_port().wait_for_text("State:       good", ANSWERED).await.unwrap();
    machine.second_port().wait_for_prompt("login:", ANSWERED).await.unwrap();
    machine.screenshot("login").unwrap();

    // A wrong password first. The next question has to come from the same console.
    for (password, next) in [("s3kret\r", "login:"), ("s3cret\r", "root@localhost:~#")] {
        machine.second_port().type_text("root\r").unwrap();
        machine.second_port().wait_for_prompt("Password:", ANSWERED).await.unwrap();
        machine.second_port().type_text(password).unwrap();
        machine.second_port().wait_for_prompt(next, ANSWERED).await.unwrap();
    }
    machine.second_port().type_text("echo I am $(id -un) at $(tty)\r").unwrap();
    machine.second_port().wait_for_text("I am root at /dev/ttyS1", ANSWERED).await.unwrap();
    machine.type_on_keyboard("root\n").unwrap();
    on_screen(&machine, "Password:").await;
    machine.type_on_keyboard("s3cret\n").unwrap();
    on_screen(&machine, "root@localhost:~#").await;
    machine.type_on_keyboard("tty\n").unwrap();
    on_screen(&machine, "/dev/tty1").await;

    let said = machine.console().lines().into_iter().chain(machine.second_port().lines());
    assert!(!said.into_iter().any(|line| line.text.contains("s3cret")), "the password was shown");
}

async fn on_screen(machine: &Machine, text: &str) -> String {
    let what = format!("{text:?} on the screen");
    let shown = until(&what, ANSWERED, async || {
        let shown = machine.screen_text()?;
        Ok(if shown.contains(text) { Poll::Ready(shown) } else { Poll::Pending(shown) })
    });
    shown.await.unwrap()
}
