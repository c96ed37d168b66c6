//! The operator: MachineRegistration and MachineInventory controllers, and the server that machines register with.

pub mod crd;
