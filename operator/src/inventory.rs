//! The machines: an index over their inventories, the requests that read and write them, and the life of a machine.

pub mod index;
pub mod life;
pub mod lookup;
pub mod names;
pub mod reinstall;
pub mod seen;
pub mod store;
