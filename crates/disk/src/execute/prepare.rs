//! The steps of a plan with the bytes that they write. They are prepared before the disk is touched, so that a missing file
//! or a file that does not fit is an error before anything changes.

use super::ExecuteError;
use crate::gpt::{Tables, tables};
use crate::layout::{ALIGNMENT, Partition, Role};
use crate::marker::{self, Marker, State};
use crate::plan::{BootFile, Content, InstallPlan, Step};
use crate::{bios, ext4, fat};
use release::{ReleaseError, ReleaseFile, ReleaseSource};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use tempfile::NamedTempFile;

/// A step with its bytes.
pub enum PreparedStep<'a> {
    /// The first megabyte while the installation runs.
    Clear {
        head: Vec<u8>,
    },
    Root {
        image: &'a ReleaseFile,
        into: Vec<&'a Partition>,
    },
    FileSystem {
        partition: &'a Partition,
        image: NamedTempFile,
    },
    BiosCore {
        partition: &'a Partition,
        core: Vec<u8>,
    },
    Verify,
    /// The first megabyte after the installation, and the tables behind the last partition.
    Commit {
        /// The marker until the tables are written.
        switching: Vec<u8>,
        head: Vec<u8>,
        tail: Vec<u8>,
        tail_offset: u64,
    },
}

/// Makes everything that the plan writes except the root image, which is large and is read from the release while it is
/// written.
pub fn prepare<'a>(plan: &'a InstallPlan, release: &ReleaseSource) -> Result<Vec<PreparedStep<'a>>, ExecuteError> {
    plan.steps.iter().map(|step| prepare_step(step, plan, release)).collect()
}

fn prepare_step<'a>(
    step: &'a Step,
    plan: &'a InstallPlan,
    release: &ReleaseSource,
) -> Result<PreparedStep<'a>, ExecuteError> {
    let partition = |role| plan.layout.partition(role);
    Ok(match step {
        Step::Clear { version } => PreparedStep::Clear { head: head(&[], State::Writing, version, plan) },
        Step::Root { image, into } => {
            PreparedStep::Root { image, into: into.iter().map(|role| partition(*role)).collect() }
        }
        Step::Boot { volume_id, files } => {
            let partition = partition(Role::Boot);
            let files = boot_files(files, release)?;
            let sector_bytes = plan.layout.sector_bytes;
            let volume =
                fat::Volume { length: partition.length, sector_bytes, id: *volume_id, label: Role::Boot.label() };
            let image = fat_image(&volume, &files).map_err(|e| ExecuteError::FileSystem(Role::Boot, e.into()))?;
            PreparedStep::FileSystem { partition, image }
        }
        Step::Ext4 { role, uuid, files } => {
            let partition = partition(*role);
            let image = ext4::folder_of(files).map_err(ext4::Ext4Error::from);
            let image =
                image.and_then(|content| ext4::make(partition.length, role.label(), *uuid, content.path(), plan.image));
            PreparedStep::FileSystem {
                partition,
                image: image.map_err(|error| ExecuteError::FileSystem(*role, error.into()))?,
            }
        }
        Step::BiosCore { core } => {
            let partition = partition(Role::Bios);
            let core = bios::core(&release.read(core)?, partition.offset, partition.length)?;
            PreparedStep::BiosCore { partition, core }
        }
        Step::Verify => PreparedStep::Verify,
        Step::Commit { version, boot_code } => {
            let Tables { mut primary, backup, backup_offset } = tables(&plan.layout);
            if let Some(file) = boot_code {
                let code = bios::boot_code(&release.read(file)?, partition(Role::Bios).offset)?;
                primary[..code.len()].copy_from_slice(&code);
            }
            let head = head(&primary, State::Complete, version, plan);
            let switching = marker(State::Switching, version, plan);
            PreparedStep::Commit { switching, head, tail: backup, tail_offset: backup_offset }
        }
    })
}

/// The first megabyte of the disk: tables, if any, and the marker behind them.
fn head(tables: &[u8], state: State, version: &str, plan: &InstallPlan) -> Vec<u8> {
    let mut head = vec![0; ALIGNMENT as usize];
    head[..tables.len()].copy_from_slice(tables);
    let marker = marker(state, version, plan);
    head[marker::OFFSET as usize..][..marker.len()].copy_from_slice(&marker);
    head
}

fn marker(state: State, version: &str, plan: &InstallPlan) -> Vec<u8> {
    Marker { state, version: version.to_owned(), identity: plan.identity.clone() }.to_bytes()
}

fn fat_image(volume: &fat::Volume, files: &[fat::PlacedFile]) -> io::Result<NamedTempFile> {
    let image = NamedTempFile::new()?;
    image.as_file().set_len(volume.length)?;
    fat::write(image.as_file(), volume, files)?;
    Ok(image)
}

/// Kernel and initrd are in two folders of the file system, but only once in memory, because a live system has little
/// of it.
fn boot_files<'a>(files: &'a [BootFile], release: &ReleaseSource) -> Result<Vec<fat::PlacedFile<'a>>, ExecuteError> {
    let mut known: BTreeMap<&str, Rc<[u8]>> = BTreeMap::new();
    let mut read = |file: &'a ReleaseFile| -> Result<Rc<[u8]>, ReleaseError> {
        if let Some(bytes) = known.get(file.name.as_str()) {
            return Ok(bytes.clone());
        }
        let bytes: Rc<[u8]> = release.read(file)?.into();
        known.insert(&file.name, bytes.clone());
        Ok(bytes)
    };
    let mut content = |file: &'a BootFile| match &file.content {
        Content::Release(file) => read(file),
        Content::Manifest => Ok(release.manifest_bytes().into()),
        Content::Text(text) => Ok(text.as_bytes().into()),
    };
    files.iter().map(|file| Ok((file.path.as_str(), content(file)?))).collect()
}
