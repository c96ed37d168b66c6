//! The cluster that a machine joins: Rancher's objects, and what a machine is told of joining.

pub mod join;
pub mod rancher;
