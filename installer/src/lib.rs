//! Probes a machine, proves its identity, registers it, installs it and looks after the installed system.

pub mod apply;
pub mod boot_partition;
pub mod cli;
pub mod command;
pub mod commands;
pub mod console;
pub mod efi;
pub mod execute;
pub mod exit_code;
pub mod grubenv;
pub mod healthy;
pub mod identity;
pub mod installed_system;
pub mod interactive;
pub mod join;
pub mod kexec;
pub mod log;
pub mod machine;
pub mod marker;
pub mod plan;
pub mod register;
pub mod release_source;
pub mod settings;
pub mod start;
pub mod status;
pub mod tpm;
