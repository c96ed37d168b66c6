//! Probes a machine, proves its identity, registers it, installs it and looks after the installed system.

pub mod arguments_file;
pub mod boot;
pub mod cli;
pub mod commands;
pub mod console;
pub mod execute;
pub mod exit_code;
#[cfg(test)]
mod fixtures;
pub mod grubenv;
pub mod installed;
pub mod machine;
pub mod marker;
pub mod plan;
pub mod provision;
pub mod session;
pub mod settings;
