//! Puts registration settings into the folder of a network boot.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use media::network_set::{
    GRUB_SCRIPT, GRUB_START, IPXE_SCRIPT, NetworkSet, REGISTRATION_ARCHIVE, registration_archive,
};
use serde::Serialize;

use super::{Settings, change, is_same};
use crate::cli::CustomizeOptions;

/// The result of a change, printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Customized<'a> {
    network: &'a Path,
    settings: bool,
}

pub(super) fn run(options: &CustomizeOptions, settings: Option<&Settings>) -> Result<()> {
    let set = &options.medium;
    ensure!(
        options.output.as_deref() != Some(Path::new(super::STANDARD_OUTPUT)),
        "the files of a network boot cannot be written to standard output; name a folder with --output"
    );
    for name in files() {
        ensure!(
            set.join(name).is_file(),
            "{} has no {name}: give an ISO, or the folder pxe/ of `ros-image build`",
            set.display()
        );
    }
    let changed = options.output.as_deref().unwrap_or(set);
    if options.output.is_some() {
        copy(set, changed)?;
    }
    let text = settings.map_or("", |settings| settings.text.as_str());
    let archive = registration_archive(text.as_bytes()).context("archiving the settings")?;
    let target = changed.join(REGISTRATION_ARCHIVE);
    // Whoever boots meanwhile gets the old settings or the new ones. Only its owner may read the token in it.
    let mut file = tempfile::NamedTempFile::new_in(changed)
        .with_context(|| format!("creating a file in {}", changed.display()))?;
    file.write_all(&archive)
        .and_then(|()| file.as_file().sync_all())
        .with_context(|| format!("writing {}", target.display()))?;
    file.persist(&target).with_context(|| format!("replacing {}", target.display()))?;
    let customized = Customized { network: changed, settings: settings.is_some() };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&customized)?);
    } else {
        println!("{}/ {}", changed.display(), change(customized.settings));
    }
    Ok(())
}

/// What every machine gets, beside the archive of the registration.
fn files() -> impl Iterator<Item = &'static str> {
    NetworkSet::FILES.into_iter().chain([IPXE_SCRIPT, GRUB_SCRIPT, GRUB_START])
}

fn copy(set: &Path, output: &Path) -> Result<()> {
    fs::create_dir_all(output).with_context(|| format!("creating {}", output.display()))?;
    ensure!(
        !is_same(set, output),
        "--output {} is the folder itself; omit --output to change it in place",
        output.display()
    );
    for name in files() {
        let target = output.join(name);
        let folder = target.parent().unwrap_or(output);
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        fs::copy(set.join(name), &target).with_context(|| format!("writing {}", target.display()))?;
    }
    Ok(())
}
