//! The agent of a live and of an installed machine. It registers, installs and provisions the machine, and keeps the
//! system bootable.

pub mod boot;
#[cfg(feature = "agent")]
pub mod cli;
pub mod clock;
#[cfg(feature = "agent")]
pub mod commands;
pub mod console;
pub mod container;
pub mod exit_code;
mod free_space;
pub mod installed;
pub mod join;
pub mod path_error;
pub mod provision;
#[cfg(feature = "agent")]
pub mod session;
pub mod settings;
pub mod upgrade;
