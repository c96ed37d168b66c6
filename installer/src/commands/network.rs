//! Waits for a network address. The target of systemd is reached seconds later, and never if no cable is attached.

use crate::console::consoles::Heading;
use crate::console::{self, announce};
use boot_contract::Milestone;
use machine::addresses::addresses;
use protocol::hardware::Address;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Time between two checks. A check is one system call.
const INTERVAL: Duration = Duration::from_millis(50);
/// Time after which the console says what is missing. It repeats this at the same interval.
const PATIENCE: Duration = Duration::from_secs(30);

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
