//! The ISO, which is what a person downloads: its size, and how long it takes to put a registration into it and into a disk image
//! of many times its size.

use super::figure::{Figure, Sample, median};
use anyhow::{Context, Result};
use qemu::paths;
use qemu::process::succeeded;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

static ISO: Figure = Figure::new("iso-size", "live ISO", "MB").at_most(90.0);
static ISO_CUSTOMIZED: Figure = Figure::new("iso-customized", "settings put into an ISO in place", "ms").at_most(20.0);
static IMAGE_CUSTOMIZED: Figure =
    Figure::new("disk-image-customized", "settings put into a disk image of 4 GiB in place", "ms").at_most(20.0);

pub static FIGURES: &[&Figure] = &[&ISO, &ISO_CUSTOMIZED, &IMAGE_CUSTOMIZED];

/// How often each medium is changed.
const TIMES: usize = 9;

pub fn measure(iso: Option<&Path>) -> Result<Vec<Sample>> {
    let iso = iso.map_or_else(paths::iso, |path| Ok(path.to_owned()))?;
    let bytes = fs::metadata(&iso).with_context(|| format!("inspecting {}", iso.display()))?.len();
    Ok(vec![
        ISO.is(bytes as f64 / 1e6),
        ISO_CUSTOMIZED.is(customized(&iso)?),
        IMAGE_CUSTOMIZED.is(customized(&paths::disk_image("raw")?)?),
    ])
}

/// Milliseconds of `ros-image customize`, from its start to its end, the median of some.
fn customized(medium: &Path) -> Result<f64> {
    let folder = tempfile::tempdir_in(paths::output()).context("creating a temporary folder")?;
    let (copy, settings) = (folder.path().join("medium"), folder.path().join("registration.yaml"));
    succeeded(Command::new("cp").args(["--sparse=always", "--"]).args([medium, &copy]))?;
    let mut times = Vec::new();
    for number in 0..TIMES {
        let text = format!("rancheros: {{install: {{registrationURL: 'https://{number}.example.org/'}}}}\n");
        fs::write(&settings, text).context("writing settings")?;
        let mut customize = Command::new(paths::program("ros-image")?);
        customize.arg("customize").arg(&copy).arg("--registration").arg(&settings);
        let begun = Instant::now();
        succeeded(&mut customize)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    median(&times).context("no times")
}
