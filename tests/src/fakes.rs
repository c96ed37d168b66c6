//! Stand-ins for what a test cannot have: machines, nodes and TPMs in memory, Rancher, Fleet, and an API server that fails.

pub mod chroot;
pub mod dnsmasq;
pub mod fault_proxy;
pub mod http_proxy;
pub mod nodes;
pub mod rancher;
pub mod software_machine;
pub mod software_tpm;
pub mod tcp_forwarder;
pub mod upgrade_engines;
