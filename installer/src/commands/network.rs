//! The network of a system that is not configured yet: a live system, or a disk image at its first boot. It is as the settings or
//! the kernel line say, and by DHCP otherwise. Waits for an address, because the target of systemd is reached seconds later, and
//! never if no cable is attached.

use crate::console::consoles::Heading;
use crate::console::{self, announce};
use crate::path_error::PathError;
use crate::provision::network;
use anyhow::Context;
use boot_contract::Milestone;
use cloud_config::CloudConfig;
use cloud_config::document::Document;
use command::Command;
use machine::addresses::addresses;
use protocol::hardware::Address;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Time between two checks. A check is one system call.
const INTERVAL: Duration = Duration::from_millis(50);
/// Time after which the console says what is missing. It repeats this at the same interval.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where systemd-network-generator(8) leaves files for the arguments `ip=`, `vlan=`, `bond=`, `nameserver=` … of the kernel line.
const RUN_FOLDER: &str = "run/systemd/network";
/// How the names of those files begin.
const GENERATED: [&str; 3] = ["70-", "71-", "90-"];
const INSTALLED_FOLDER: &str = "/etc/systemd/network";

/// Configures the network of the running system as `network` of the cloud-config says. Does nothing without one.
pub fn configure(root: &Path, cloud_config: &CloudConfig) -> anyhow::Result<()> {
    let (document, unapplied) = Document::read(cloud_config);
    let Some(network) = document.network else { return Ok(()) };
    unapplied.iter().filter(|one| one.path.starts_with("network")).for_each(console::note);
    let folder = root.join(RUN_FOLDER);
    let files = network::files(&network);
    let is_there =
        |(name, content): &(String, String)| fs::read_to_string(folder.join(name)).is_ok_and(|it| it == *content);
    let stale = stale(&folder, &files);
    if files.iter().all(is_there) && stale.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(&folder).map_err(PathError::of("creating", &folder))?;
    for path in stale {
        fs::remove_file(&path).map_err(PathError::of("removing", &path))?;
    }
    for (name, content) in &files {
        let path = folder.join(name);
        fs::write(&path, content).map_err(PathError::of("writing", &path))?;
    }
    // `networkctl reload` needs D-Bus, which does not run here.
    Command::new("systemctl").args(["restart", "systemd-networkd.service"]).run().context("configuring the network")?;
    console::note("the network is configured as the settings say");
    Ok(())
}

/// Files of an earlier configuration that this one does not have.
fn stale(folder: &Path, files: &[(String, String)]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_stale = |name: &str| name.starts_with(network::PREFIX) && !files.iter().any(|(file, _)| file == name);
    entries.filter(|entry| entry.file_name().to_str().is_some_and(is_stale)).map(|entry| entry.path()).collect()
}

/// Files for the installed system, so that it has the network that the kernel line asked for: path and content.
pub fn of_kernel_line(root: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(root.join(RUN_FOLDER)).into_iter().flatten().flatten();
    let mut files: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_generated = GENERATED.iter().any(|begin| name.starts_with(begin));
            let content = fs::read_to_string(entry.path()).ok().filter(|_| is_generated)?;
            Some((format!("{INSTALLED_FOLDER}/{name}"), content))
        })
        .collect();
    files.sort();
    files
}

/// Returns when the machine has an address.
pub async fn wait() -> Vec<Address> {
    if addresses().is_empty() {
        console::note("waiting for a network address");
    }
    wait_for(addresses, || {
        console::note("no address yet: check the cable, the switch port and the DHCP server; waiting");
    })
    .await
}

/// Waits for an address, and announces it the first time.
pub async fn wait_for_network(is_up: &mut bool) {
    if !std::mem::replace(is_up, true) {
        let found = wait().await;
        let shown: Vec<String> = found.iter().map(|found| format!("{} {}", found.interface, found.address)).collect();
        console::head(Heading::Address, &shown[0]);
        announce(Milestone::Network, shown.join(", "));
    }
}

async fn wait_for(mut probe: impl FnMut() -> Vec<Address>, mut notify: impl FnMut()) -> Vec<Address> {
    let mut complain_at = Instant::now() + PATIENCE;
    loop {
        let found = probe();
        if !found.is_empty() {
            return found;
        }
        if Instant::now() >= complain_at {
            notify();
            complain_at += PATIENCE;
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_an_earlier_configuration_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["10-cloud-config-a.network", "10-cloud-config-b.network", "70-eth0.network"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let files = [("10-cloud-config-b.network".to_owned(), String::new())];
        assert_eq!(stale(folder.path(), &files), [folder.path().join("10-cloud-config-a.network")]);
    }

    #[test]
    fn the_installed_system_gets_the_files_of_the_kernel_line_alone() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(of_kernel_line(root.path()), []);
        let folder = root.path().join(RUN_FOLDER);
        fs::create_dir_all(&folder).unwrap();
        for name in ["70-eth0.network", "10-cloud-config-eth0.network"] {
            fs::write(folder.join(name), name).unwrap();
        }
        assert_eq!(
            of_kernel_line(root.path()),
            [("/etc/systemd/network/70-eth0.network".into(), "70-eth0.network".into())]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_cable_is_waited_for_and_asked_for() {
        let begin = Instant::now();
        let address = Address { interface: "eth0".into(), address: "10.0.2.15".into() };
        let probe = || if begin.elapsed() < Duration::from_secs(70) { Vec::new() } else { vec![address.clone()] };
        let mut complaints = 0;
        let found = wait_for(probe, || complaints += 1).await;
        assert_eq!((found, complaints), (vec![address], 2));
    }
}
