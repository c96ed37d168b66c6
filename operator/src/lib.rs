//! The operator: MachineRegistration and MachineInventory controllers, and the server that machines register with.

pub mod apply;
pub mod authority;
pub mod context;
pub mod controllers;
pub mod crd;
pub mod digest;
pub mod enroll;
pub mod events;
#[cfg(test)]
mod fixtures;
pub mod inventory_client;
pub mod inventory_index;
pub mod label;
pub mod machine_life;
pub mod metrics;
pub mod registrar;
pub mod registration;
pub mod registration_index;
pub mod run;
pub mod server;
pub mod upgrade;
