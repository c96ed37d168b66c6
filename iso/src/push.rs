//! Pushes an image from its archive to a registry.

use std::sync::Arc;

use anyhow::{Context, Result};
use registry::{Reference, RegistriesFile};
use serde::Serialize;

use crate::cli::PushOptions;
use crate::progress::{self, Tenths};

/// The result of a push, printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    reference: String,
    digest: String,
    /// The reference that leads to this image whatever is pushed later.
    pinned: String,
}

pub fn run(options: &PushOptions) -> Result<()> {
    let reference: Reference = options.reference.parse()?;
    let registries = options.registries.as_deref().map(RegistriesFile::read).transpose()?.unwrap_or_default();
    for key in registries.unused_keys() {
        eprintln!("ros-image: {key} in the registries file is not used");
    }
    let registries = registries.with_plain_http(options.plain_http);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let pushed = progress::stage(&format!("pushing to {reference}"), || {
        let tenths = Tenths::default();
        let told = Arc::new(move |sent, total| tenths.tell(sent, total));
        let pushed = registry::push(&options.archive, &reference, &registries, told);
        Ok(runtime.block_on(pushed)?)
    })?;
    let shown = Shown {
        pinned: format!("{}/{}@{}", reference.registry(), reference.repository(), pushed.digest),
        reference: reference.to_string(),
        digest: pushed.digest,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        println!("{}", shown.pinned);
    }
    Ok(())
}
