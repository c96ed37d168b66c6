//! `reset`: has the recovery system erase data, settings, or both.

use crate::cli::ResetOptions;
use crate::installed::erase_request::{self, Reset};
use anyhow::Context;
use machine::Boot;
use protocol::message::Slot;
use std::path::Path;
use uuid::Uuid;

pub fn run(options: &ResetOptions, root: &Path) -> anyhow::Result<()> {
    let slot = Boot::probe(root).slot.and_then(Slot::installed);
    let slot = slot.context("this is not an installed system: the kernel command line names no slot (ros.slot=)")?;
    // Each request of a machine has another text, so that it is carried out once.
    let request = format!("by hand, {}", Uuid::new_v4()).parse().context("naming the request")?;
    let reset = Reset::by_hand(request, options.persistent, options.oem, slot);
    let deed = erase_request::ask(reset, slot, root)?;
    Ok(erase_request::restart_into_recovery(&deed)?)
}
