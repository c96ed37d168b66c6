//! One module for each route of the server.

pub(super) mod boot;
pub(super) mod ca_certificates;
pub(super) mod exchange;
pub(super) mod first_release;
pub(super) mod inventory;
pub(super) mod media;
pub(super) mod registration;
