//! The server side of a test: Kubernetes on loopback, the operator as a process or in a container, and their tools.

pub mod certificates;
pub mod chart;
pub mod cluster;
pub mod container;
pub mod control_plane;
pub mod etcd;
pub mod go_program;
pub mod helm;
pub mod image_registry;
pub mod nodes;
pub mod operator;
pub mod pod_image;
pub mod registration;
