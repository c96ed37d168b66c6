//! What a network has already: dnsmasq, which gives addresses and says nothing of boot files, or which is the router of a
//! network with IPv6.

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
        Self::start_with(lan, &[&format!("--dhcp-range={range},255.255.255.0,1h")], folder)
    }

    /// Advertises an IPv6 prefix of 64 bits, such as `fd00::`, of which machines make their addresses.
    pub fn start_router(lan: &Lan, prefix: &str, folder: &Path) -> Result<Self> {
        Self::start_with(lan, &["--enable-ra", &format!("--dhcp-range={prefix},ra-only,64,1h")], folder)
    }

    fn start_with(lan: &Lan, options: &[&str], folder: &Path) -> Result<Self> {
        let mut command = lan.servers().command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--port=0"])
            .args(["--log-facility=-", "--log-dhcp", "--bind-interfaces", &format!("--interface={SERVERS}")])
            .args(["--dhcp-authoritative", "--no-ping"])
            .args(options)
            .arg(format!("--dhcp-leasefile={}", folder.join("leases").display()));
        Ok(Self { process: Process::start(&mut command, &folder.join("dnsmasq.log"))? })
    }
}
