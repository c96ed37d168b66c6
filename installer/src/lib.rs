//! Probes a machine, proves its identity, registers it, installs it and looks after the installed system.

pub mod machine;
pub mod marker;
pub mod settings;
