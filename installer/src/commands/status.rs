//! `status`: prints which system runs here.

use crate::cli::{Output, OutputOptions};
use crate::console;
use crate::installed::status::Status;
use anyhow::Context;

pub fn run(options: &OutputOptions) -> anyhow::Result<()> {
    let status = Status::read()?;
    match options.output {
        Output::Text => console::print(&status)?,
        Output::Json => console::print(serde_json::to_string_pretty(&status).context("writing the status")?)?,
    }
    Ok(())
}
