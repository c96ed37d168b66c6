//! The size of the ISO, which is what a person downloads.

use super::figure::{Figure, Sample};
use anyhow::{Context, Result};
use qemu::paths;
use std::fs;
use std::path::Path;

static ISO: Figure = Figure::new("iso-size", "live ISO", "MB").at_most(90.0);

pub static FIGURES: &[&Figure] = &[&ISO];

pub fn measure(iso: Option<&Path>) -> Result<Vec<Sample>> {
    let iso = iso.map_or_else(paths::iso, |path| Ok(path.to_owned()))?;
    let bytes = fs::metadata(&iso).with_context(|| format!("inspecting {}", iso.display()))?.len();
    Ok(vec![ISO.is(bytes as f64 / 1e6)])
}
