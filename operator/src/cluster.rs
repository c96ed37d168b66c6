//! The cluster that a machine joins: Rancher's objects, and the answer to a machine that joins.

pub mod join;
pub mod rancher;
