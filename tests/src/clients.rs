//! Clients that are not today's installer in a virtual machine.

pub mod strangers;
