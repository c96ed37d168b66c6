//! The ext4 file systems after a power cut: `e2fsck -fp` replays the journal of each and finds nothing that a person must
//! decide, and nothing is left to repair afterwards.

use super::contents::BYTES;
use super::random::Random;
use super::recording::Recording;
use super::selection::Examiner;
use super::state::{Area, DiskState};
use anyhow::{Context, Result, ensure};
use disk::layout::Role;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

const PARTITIONS: [Role; 2] = [Role::Oem, Role::Persistent];

/// What was found.
#[derive(Default)]
pub struct Ext4Figures {
    /// Distinct images that the recording has after whole writes.
    pub distinct: usize,
    pub checked: usize,
    pub took: Duration,
}

/// Checks up to `limit` distinct images: random ones among those after each write since the installation, and
/// those with one write left out of an epoch.
pub fn check_ext4(recording: &Recording, limit: usize, seed: u64) -> Result<Ext4Figures> {
    let begun = Instant::now();
    let mut random = Random::new(seed);
    let total = images(recording, |_, _| Ok(()))?;
    let mut left = total;
    let mut wanted = limit.min(total);
    let mut checked = 0;
    images(recording, |disk, role| {
        // Each image has the same chance, and exactly `limit` are taken.
        if random.below(left) < wanted {
            check(disk, role).with_context(|| format!("{role}, image {} of {total}", total - left))?;
            wanted -= 1;
            checked += 1;
        }
        left -= 1;
        Ok(())
    })?;
    Ok(Ext4Figures { distinct: total, checked, took: begun.elapsed() })
}

/// Calls `visit` with each distinct image since the installation, and returns their number.
fn images(recording: &Recording, mut visit: impl FnMut(&DiskState, Role) -> Result<()>) -> Result<usize> {
    let mut disk = recording.before();
    let mut examiner = Examiner::new(&disk)?;
    let mut seen = HashSet::new();
    let installed = recording.installed();
    for (index, epoch) in recording.epochs.iter().enumerate() {
        if index >= installed {
            // Recovery makes COS_PERSISTENT anew, however often it must begin.
            let is_remade = examiner.examine(&disk).is_ok_and(|selection| selection.is_recovery());
            epoch.prefixes_and_losses(&mut disk, &mut |disk| {
                for role in PARTITIONS {
                    if !(is_remade && role == Role::Persistent) && seen.insert(disk.key(Area::Partition(role))) {
                        visit(disk, role)?;
                    }
                }
                Ok(())
            })?;
        }
        epoch.apply(&mut disk);
    }
    Ok(seen.len())
}

fn check(disk: &DiskState, role: Role) -> Result<()> {
    let image = tempfile::NamedTempFile::new().context("creating an image")?;
    let sectors = disk.places().partition(role).clone();
    let write = |file: &File| {
        file.set_len(u64::from(sectors.end - sectors.start) * BYTES as u64)?;
        disk.write_range(sectors.clone(), file)
    };
    write(image.as_file()).context("writing an image")?;
    // 1: something was repaired.
    for (option, most) in [("-fp", 1), ("-fn", 0)] {
        let output = Command::new("e2fsck").arg(option).arg(image.path()).output().context("running e2fsck")?;
        let code = output.status.code();
        ensure!(
            code.is_some_and(|code| code <= most),
            "e2fsck {option} ends with {code:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}

impl fmt::Display for Ext4Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { distinct, checked, took } = self;
        write!(f, "{distinct} distinct ext4 images, {checked} of them checked, none bad; {:.1} s", took.as_secs_f64())
    }
}
