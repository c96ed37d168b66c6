//! `rollback`: the system in the other slot is started next.

use crate::boot::state_file;
use crate::cli::RollbackOptions;
use crate::console::{self, announce};
use crate::exit_code::ExitCode;
use crate::upgrade::{self, UpgradeError};
use anyhow::Context;
use boot_contract::{Milestone, Slot};
use command::Command;

pub fn run(options: &RollbackOptions) -> anyhow::Result<()> {
    let slot = choose_other().map_err(|error| ExitCode::from(&error).with(error))?;
    if options.reboot {
        announce(Milestone::Rebooting, format!("into slot {slot}"));
        Command::new("systemctl").args(["--no-block", "reboot"]).run().context("restarting")?;
        return Ok(());
    }
    console::print(format!("slot {slot} is started next; restart with: systemctl reboot"))?;
    Ok(())
}

fn choose_other() -> Result<Slot, UpgradeError> {
    let slot = upgrade::slots()?.rollback()?;
    state_file::change(|state| {
        state.choose(slot);
    })?;
    Ok(slot)
}
