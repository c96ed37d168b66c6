//! Clients that are not today's installer in a virtual machine.

pub mod first_release;
pub mod hostile_connections;
pub mod installer;
