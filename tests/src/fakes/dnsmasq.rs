//! The DHCP server that a network has already: dnsmasq, which gives addresses and says nothing of boot files.

use anyhow::Result;
use qemu::lan::{Lan, SERVERS};
use qemu::process::Process;
use std::path::Path;

pub struct Dnsmasq {
    pub process: Process,
}

impl Dnsmasq {
    /// Gives addresses from `range`, such as `192.0.2.100,192.0.2.150`, until this value is dropped.
    pub fn start(lan: &Lan, range: &str, folder: &Path) -> Result<Self> {
        let mut command = lan.servers().command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--port=0"])
            .args(["--log-facility=-", "--log-dhcp", "--bind-interfaces", &format!("--interface={SERVERS}")])
            .args([&format!("--dhcp-range={range},255.255.255.0,1h"), "--dhcp-authoritative", "--no-ping"])
            .arg(format!("--dhcp-leasefile={}", folder.join("leases").display()));
        Ok(Self { process: Process::start(&mut command, &folder.join("dnsmasq.log"))? })
    }
}
