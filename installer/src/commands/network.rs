//! Waits for a network address. systemd's own target is reached seconds later, and never without a cable.

use crate::console;
use machine::addresses::addresses;
use protocol::hardware::Address;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two checks; a check is one system call.
const INTERVAL: Duration = Duration::from_millis(50);
/// After this long, and again after each such time, the console says what is being waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns as soon as the machine has an address.
pub async fn wait() -> Vec<Address> {
    if addresses().is_empty() {
        console::note("waiting for a network address");
    }
    wait_for(addresses, || {
        console::note("no address yet: check the cable, the switch port and the DHCP server; waiting");
    })
    .await
}

async fn wait_for(mut look: impl FnMut() -> Vec<Address>, mut complain: impl FnMut()) -> Vec<Address> {
    let mut complain_at = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if !found.is_empty() {
            return found;
        }
        if Instant::now() >= complain_at {
            complain();
            complain_at += PATIENCE;
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cable_that_comes_late_is_waited_for_and_asked_for() {
        let begin = Instant::now();
        let address = Address { interface: "eth0".into(), address: "10.0.2.15".into() };
        let look = || if begin.elapsed() < Duration::from_secs(70) { Vec::new() } else { vec![address.clone()] };
        let mut complaints = 0;
        let found = wait_for(look, || complaints += 1).await;
        assert_eq!((found, complaints), (vec![address], 2));
    }
}
