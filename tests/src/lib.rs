//! What tests and the demo are made of: a Kubernetes API, the operator, software TPMs and virtual machines, each of
//! its own folder and ports, and each ended with the value that stands for it.

pub mod accelerator;
pub mod bench;
pub mod certificates;
pub mod cluster;
pub mod console;
pub mod container;
pub mod control_plane;
pub mod disk;
pub mod etcd;
pub mod fault_proxy;
pub mod firmware;
pub mod foreign;
pub mod go_program;
pub mod helm;
pub mod machine;
pub mod milestone;
pub mod operator;
pub mod other_root;
pub mod paths;
pub mod port;
pub mod process;
pub mod qmp;
pub mod rancher;
pub mod registration;
pub mod scratch;
pub mod site;
pub mod software_machine;
pub mod software_tpm;
pub mod ssh;
pub mod story;
pub mod stranger;
pub mod swtpm;
pub mod vm_slot;
pub mod wait;
pub mod workshop;
