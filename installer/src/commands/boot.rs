//! `boot`: which slot is started next.

use crate::boot::state_file;
use crate::cli::BootOptions;
use crate::console;
use crate::installed::erase_request;
use boot_contract::Slot;
use std::path::Path;

pub fn run(options: &BootOptions, root: &Path) -> anyhow::Result<()> {
    let slot = Slot::from(options.slot);
    let (mut holds_a_system, mut left) = (false, None);
    state_file::change(|state| {
        holds_a_system = state.choose(slot);
        left = state.slot(slot).map(|boot| boot.left);
    })?;
    anyhow::ensure!(holds_a_system, "slot {slot} holds no system; `ros-installer status` shows which one does");
    if slot != Slot::Recovery {
        erase_request::withdraw(root)?;
    }
    let starts = left.map_or_else(String::new, |left| format!(", up to {left} times until it comes up"));
    console::print(format!("slot {slot} is started next{starts}; restart with: systemctl reboot"))?;
    Ok(())
}
