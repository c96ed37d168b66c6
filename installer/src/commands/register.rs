//! `register`: only the exchange, to try out an operator and for machines that are installed by other means.

use super::operator::{self, PendingIdentity};
use crate::cli::{Output, RegisterOptions};
use crate::console;
use crate::console::log;
use crate::exit_code::{ExitCode, OrExit};
use crate::settings::Gathered;
use anyhow::Context;
use machine::Machine;
use serde_json::json;
use std::path::Path;

pub async fn run(options: &RegisterOptions, root: &Path) -> anyhow::Result<()> {
    let flags = options.settings.layer().or_exit(ExitCode::Settings)?;
    let gathered = Gathered::from_machine(root, options.settings.settings_file.as_deref(), flags);
    let gathered = gathered.or_exit(ExitCode::Settings).context("resolving the settings")?;
    log::begin(*gathered.settings().debug);
    let transport = operator::transport(gathered.settings())?;
    let mut transport = transport
        .context("there is no registrationURL: set --registration-url, or use a medium with a registration")
        .or_exit(ExitCode::Settings)?;
    let identity = PendingIdentity::begin(options.tpm.tcti.clone(), root.to_owned());
    let machine = Machine::probe(root);
    let identity = identity.ready(gathered.settings()).await?;
    let notify = (!options.once).then_some(operator::note_retry_on_stderr as operator::RetryNotice);
    let (_exchange, config) = operator::register(&mut transport, &identity, &machine, notify).await?;
    match options.output {
        Output::Text => console::print(config.cloud_config.to_yaml())?,
        Output::Json => {
            let document = json!({ "inventory": config.inventory, "cloudConfig": config.cloud_config });
            console::print(format!("{document:#}"))?;
        }
    }
    Ok(())
}
