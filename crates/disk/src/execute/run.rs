//! Writes prepared steps to the target, in order, and removes the partition tables again when something fails.

use super::prepare::PreparedStep;
use super::root_image::Hashing;
use super::{ExecuteError, Written, root_image, sparse};
use crate::layout::ALIGNMENT;
use crate::marker;
use crate::plan::InstallPlan;
use crate::target::Target;
use protocol::message::{InstallPhase, Progress};
use release::{ReleaseFile, ReleaseSource};
use std::io;
use std::time::Instant;

/// Carries out `steps`. Flushes the target between kinds of steps, so that after a power cut the medium never holds a
/// later step without the earlier ones.
pub fn run(
    target: &mut dyn Target,
    plan: &InstallPlan,
    release: &ReleaseSource,
    steps: &[PreparedStep],
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, ExecuteError> {
    let mut run = Run { target, plan, release, progress, written: Written::default() };
    for step in steps {
        if let Err(error) = run.perform(step, steps) {
            run.abandon(steps);
            return Err(error);
        }
    }
    Ok(run.written)
}

struct Run<'a> {
    target: &'a mut dyn Target,
    plan: &'a InstallPlan,
    release: &'a ReleaseSource,
    progress: &'a mut dyn FnMut(Progress),
    written: Written,
}

impl Run<'_> {
    fn perform(&mut self, step: &PreparedStep, steps: &[PreparedStep]) -> Result<(), ExecuteError> {
        match step {
            PreparedStep::Clear { head } => self.clear(head).map_err(writing("the marker")),
            PreparedStep::Root { image, into } => {
                let offsets: Vec<u64> = into.iter().map(|partition| partition.offset).collect();
                self.write_root(image, &offsets)
            }
            PreparedStep::FileSystem { partition, image } => {
                // File systems are not counted: the numbers stay those of the root image.
                let bytes = self.written.bytes;
                (self.progress)(message(InstallPhase::Configuring, bytes, bytes, partition.role.label()));
                sparse::write(image.as_file(), self.target, partition.offset).map_err(writing(partition.role.label()))
            }
            PreparedStep::BiosCore { partition, core } => {
                self.target.write_at(partition.offset, &self.whole_sectors(core)).map_err(writing("GRUB for BIOS"))
            }
            PreparedStep::Verify => self.verify(steps),
            PreparedStep::Commit { switching, head, tail, tail_offset } => {
                self.commit(switching, head, (tail, *tail_offset)).map_err(writing("the partition table"))?;
                // Failure is only a warning: the table is on the disk, and the next system reads it at its start.
                if let Err(error) = self.target.announce() {
                    tracing::warn!(
                        "telling the kernel about the partition table of {}: {error}",
                        self.plan.target.display()
                    );
                }
                Ok(())
            }
        }
    }

    /// Erases the backup first: while the primary table exists, the disk still has its old partitions. The header of the
    /// primary table has a flush of its own: after a power cut, a header without its entries would look like a table of
    /// somebody else, and the installation would not be begun again unasked.
    fn clear(&mut self, head: &[u8]) -> io::Result<()> {
        let sector = u64::from(self.target.sector_bytes());
        let tail_offset = (self.target.length() - ALIGNMENT) / sector * sector;
        let tail = vec![0; (self.target.length() - tail_offset) as usize];
        self.target.write_at(tail_offset, &tail)?;
        self.target.flush()?;
        self.target.write_at(sector, &vec![0; sector as usize])?;
        self.target.flush()?;
        self.target.write_at(0, head)?;
        self.target.flush()
    }

    fn write_root(&mut self, image: &ReleaseFile, offsets: &[u64]) -> Result<(), ExecuteError> {
        let started = Instant::now();
        let total = image.size * offsets.len() as u64;
        let mut source = Hashing::new(self.release.open_root()?);
        let progress = &mut *self.progress;
        let report = |bytes| progress(message(InstallPhase::Writing, bytes, total, "root image"));
        root_image::copy(&mut source, image.size, self.target, offsets, report).map_err(|error| match error {
            root_image::CopyError::Read(source) => ExecuteError::Source(image.name.clone(), source),
            root_image::CopyError::Write(source) => ExecuteError::Write { what: "the root image".into(), source },
        })?;
        let actual = source.finish();
        if actual != image.sha256 {
            let (name, expected) = (image.name.clone(), image.sha256.clone());
            return Err(ExecuteError::SourceDigest { name, expected, actual });
        }
        self.target.flush().map_err(writing("the root image"))?;
        self.written.bytes += total;
        self.written.writing += started.elapsed();
        Ok(())
    }

    fn verify(&mut self, steps: &[PreparedStep]) -> Result<(), ExecuteError> {
        let started = Instant::now();
        self.target.flush().map_err(writing("the file systems"))?;
        let mut before = 0;
        let total = steps.iter().map(root_bytes).sum();
        for step in steps {
            match step {
                PreparedStep::Root { image, into } => {
                    for partition in into {
                        let progress = &mut *self.progress;
                        let label = partition.role.label();
                        let report = |bytes| progress(message(InstallPhase::Verifying, before + bytes, total, label));
                        let actual = root_image::digest(self.target, partition.offset, image.size, report);
                        if actual.map_err(reading_back(label))? != image.sha256 {
                            return Err(ExecuteError::Differs(label.into()));
                        }
                        before += image.size;
                    }
                }
                PreparedStep::FileSystem { partition, image } => {
                    let label = partition.role.label();
                    let same = sparse::compare(image.as_file(), self.target, partition.offset);
                    if !same.map_err(reading_back(label))? {
                        return Err(ExecuteError::Differs(label.into()));
                    }
                }
                PreparedStep::BiosCore { partition, core } => {
                    let expected = self.whole_sectors(core);
                    let mut actual = vec![0; expected.len()];
                    let what = "GRUB for BIOS";
                    self.target.read_at(partition.offset, &mut actual).map_err(reading_back(what))?;
                    if actual != expected {
                        return Err(ExecuteError::Differs(what.into()));
                    }
                }
                PreparedStep::Clear { .. } | PreparedStep::Verify | PreparedStep::Commit { .. } => {}
            }
        }
        self.written.verifying = started.elapsed();
        Ok(())
    }

    /// Writes the backup table first, because firmware may restore a primary table from it. By now everything that it
    /// points to is on the medium. The first sector has a flush of its own: if the rest of the primary table reached the
    /// disk without it, the table would look whole, but neither firmware nor Linux would use it. The marker is written
    /// separately, before and after the table: a power cut during one write of both could leave the marker without the
    /// table.
    fn commit(&mut self, switching: &[u8], head: &[u8], (tail, tail_offset): (&[u8], u64)) -> io::Result<()> {
        let (tables, rest) = head.split_at(marker::OFFSET as usize);
        let sector = self.target.sector_bytes();
        let (protective, primary) = tables.split_at(sector as usize);
        for (offset, bytes) in [
            (tail_offset, tail),
            (marker::OFFSET, switching),
            (0, protective),
            (u64::from(sector), primary),
            (marker::OFFSET, &rest[..marker::LENGTH]),
        ] {
            self.target.write_at(offset, bytes)?;
            self.target.flush()?;
        }
        Ok(())
    }

    /// Removes the tables at both ends and leaves the marker that lets the next attempt begin, as far as a failing disk
    /// allows.
    fn abandon(&mut self, steps: &[PreparedStep]) {
        for step in steps {
            if let PreparedStep::Clear { head } = step
                && let Err(error) = self.clear(head)
            {
                tracing::warn!("clearing the partition table of {}: {error}", self.plan.target.display());
            }
        }
    }

    fn whole_sectors(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(self.target.sector_bytes() as usize), 0);
        bytes
    }
}

fn root_bytes(step: &PreparedStep) -> u64 {
    match step {
        PreparedStep::Root { image, into } => image.size * into.len() as u64,
        _ => 0,
    }
}

fn message(phase: InstallPhase, bytes: u64, total_bytes: u64, text: &str) -> Progress {
    Progress { phase, bytes, total_bytes, message: text.into() }
}

fn writing(what: &str) -> impl FnOnce(io::Error) -> ExecuteError {
    move |source| ExecuteError::Write { what: what.into(), source }
}

fn reading_back(what: &str) -> impl FnOnce(io::Error) -> ExecuteError {
    move |source| ExecuteError::ReadBack { what: what.into(), source }
}
