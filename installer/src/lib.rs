//! Probes a machine, proves its identity, registers it, installs it and looks after the installed system.

pub mod boot;
pub mod cli;
pub mod commands;
pub mod console;
pub mod exit_code;
pub mod installed;
pub mod provision;
pub mod session;
pub mod settings;
