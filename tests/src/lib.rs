//! What tests, the demo and the benchmarks are made of: a Kubernetes API, the operator, and machines in memory. Each
//! has its own folder and ports, and ends when its value is dropped. Virtual machines are in the crate `qemu`.

pub mod bench;
pub mod clients;
pub mod clusters;
pub mod fakes;
pub mod image_build;
pub mod interruption;
pub mod lifecycle;
pub mod node_image;
pub mod objects;
pub mod other_release;
pub mod power_cut;
pub mod world;
