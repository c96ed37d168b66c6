//! What tests, the demo and the benchmarks are made of: a Kubernetes API, the operator, and machines in memory. Each has its own
//! folder and ports, and ends when its value is dropped. Virtual machines are in the crate `qemu`.

pub mod bench;
pub mod certificates;
pub mod cluster;
pub mod container;
pub mod control_plane;
pub mod etcd;
pub mod fault_proxy;
pub mod foreign;
pub mod go_program;
pub mod helm;
pub mod operator;
pub mod other_root;
pub mod rancher;
pub mod registration;
pub mod site;
pub mod software_machine;
pub mod software_tpm;
pub mod story;
pub mod stranger;
pub mod workshop;
