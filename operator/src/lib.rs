//! The operator: MachineRegistration and MachineInventory controllers, and the server that machines register with.

pub mod cluster;
pub mod context;
pub mod controllers;
pub mod digest;
#[cfg(test)]
mod fixtures;
pub mod identity;
pub mod inventory;
pub mod kube;
pub mod media;
pub mod observe;
pub mod registration;
pub mod rollout;
pub mod run;
pub mod server;
