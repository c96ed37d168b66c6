//! The operator: MachineRegistration and MachineInventory controllers, and the server that machines register with.

pub mod absence;
pub mod address;
pub mod apply;
pub mod authority;
pub mod client;
pub mod clock_jumps;
pub mod context;
pub mod controllers;
pub mod crd;
pub mod digest;
#[cfg(test)]
mod docs;
pub mod enroll;
pub mod events;
#[cfg(test)]
mod fixtures;
pub mod front;
pub mod inventory_client;
pub mod inventory_index;
pub mod join;
pub mod label;
pub mod leadership;
pub mod lookup;
pub mod machine_life;
pub mod media;
pub mod metrics;
pub mod pace;
pub mod rancher;
pub mod registrar;
pub mod registration;
pub mod registration_index;
pub mod reinstall;
pub mod run;
pub mod seen_inventory;
pub mod server;
pub mod shared_secret;
pub mod status;
pub mod tpm_vendors;
pub mod upgrade;
