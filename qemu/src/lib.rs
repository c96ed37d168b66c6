//! Virtual machines for tests: firmware, disks, TPMs, consoles, and a power button. Knows nothing of Kubernetes.

pub mod accelerator;
pub mod console;
pub mod disk;
pub mod firmware;
pub mod lan;
pub mod log_tail;
pub mod machine;
pub mod paths;
pub mod port;
pub mod process;
pub mod qmp;
pub mod scratch;
pub mod ssh;
pub mod stall;
pub mod swtpm;
pub mod terminal;
pub mod timeline;
pub mod vm_slot;
pub mod wait;
pub mod write_log;
