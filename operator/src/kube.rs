//! The API server as the operator uses it: the client and its deadlines, watches, writes, events, and the election.

pub mod absence;
pub mod apply;
pub mod client;
pub mod clock;
pub mod events;
pub mod label;
pub mod leadership;
pub mod rancher_setting;
pub mod request_times;
pub mod status_writer;
pub mod watch;
