//! The API server as the operator uses it: the client and its deadlines, watches, writes, events, and the election.

pub mod absence;
pub mod apply;
pub mod client;
pub mod clock_jumps;
pub mod events;
pub mod label;
pub mod leadership;
pub mod status_writer;
pub mod watch;
