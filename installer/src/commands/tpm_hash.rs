//! `tpm-hash`: prints the machine's identity, for a person who writes a MachineInventory by hand.

use crate::cli::TpmOptions;
use crate::console;
use crate::exit_code::ExitCode;
use attest::{DeviceTpm, tpm_hash};

pub fn run(options: &TpmOptions) -> anyhow::Result<()> {
    let hash = DeviceTpm::open(&options.tcti).and_then(|mut tpm| tpm_hash(&mut tpm));
    let hash = hash.map_err(|error| ExitCode::from(&error).with(error))?;
    Ok(console::print(hash)?)
}
