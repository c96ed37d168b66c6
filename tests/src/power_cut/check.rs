//! Visits the states of a recording and judges each.

use super::contents::ZERO;
use super::epoch::{Epoch, Extent};
use super::random::Random;
use super::recording::Recording;
use super::selection::{Examiner, Selection};
use super::state::DiskState;
use anyhow::{Context, Result, ensure};
use disk::layout::Role;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Different faults that are told.
const MOST_FAULTS: usize = 20;

/// An epoch in which fewer sectors change has few states.
const FEW: usize = 10;

/// How to visit the states.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// At least this many states, where the recording has them.
    pub states: usize,
    pub seed: u64,
    /// How many states are picked to be started for real.
    pub sample: usize,
}

/// What was found.
#[derive(Default)]
pub struct Figures {
    pub writes: usize,
    pub epochs: usize,
    pub states: usize,
    /// States that differ in something that boot selection reads.
    pub distinct: usize,
    /// States from which nothing starts and an installation begins again.
    pub nothing: usize,
    pub bad: usize,
    /// What is wrong with them, and how often.
    pub faults: BTreeMap<String, usize>,
    pub took: Duration,
    pub sample: Vec<Sample>,
}

/// A state that was picked.
pub struct Sample {
    epoch: usize,
    /// What it differs in from the disk before the epoch.
    changes: Vec<(u32, u32)>,
    /// What boot selection must find.
    pub selection: Selection,
}

/// Which part of the machine an epoch is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// The partition table, the boot partition.
    Selection,
    /// Root images and GRUB for BIOS.
    Content,
    /// File systems that Linux repairs; see [`super::ext4`].
    Ext4,
}

impl Check {
    pub fn run(&self, recording: &Recording) -> Result<Figures> {
        let begun = Instant::now();
        let mut disk = recording.before();
        let mut examiner = Examiner::new(&disk)?;
        let mut random = Random::new(self.seed);
        let mut distinct = HashSet::new();
        let mut figures = Figures { epochs: recording.epochs.len(), ..Figures::default() };
        let changing = changing(recording);
        let shares = self.shares(&changing);
        let picking: Vec<usize> = self.epochs_to_pick_from(&changing, recording.installed(), &mut random);
        for (index, epoch) in recording.epochs.iter().enumerate() {
            let (about, _) = changing[index];
            figures.writes += epoch.writes().len();
            let allowed = outcomes(epoch, &mut disk, &mut examiner, index, &mut figures)?;
            let extent = Extent { torn: about.torn(), random: shares[index] };
            let mut picks = Picks::new(picking.iter().filter(|picked| **picked == index).count());
            epoch.states(&mut disk, extent, &mut random, &mut |disk| {
                figures.states += 1;
                let is_new = distinct.insert(disk.key_of_start());
                match examiner.examine(disk) {
                    Ok(selection) if selection.is_one_of(&allowed) => {
                        figures.nothing += usize::from(selection == Selection::Nothing);
                        // Recovery goes on with its work only where its operator is.
                        if is_new && !selection.is_recovery() {
                            picks.offer(self.seed, figures.states, || Sample {
                                epoch: index,
                                changes: epoch.changes(disk),
                                selection,
                            });
                        }
                    }
                    Ok(selection) => figures.fault(index, &format!("{selection:?} is neither the old nor the new")),
                    Err(fault) => figures.fault(index, &fault),
                }
                Ok(())
            })?;
            figures.sample.extend(picks.into_samples());
            epoch.apply(&mut disk);
        }
        figures.distinct = distinct.len();
        figures.took = begun.elapsed();
        Ok(figures)
    }

    /// How many random states each epoch gets. One in which few sectors change has few states; the others share the rest.
    fn shares(&self, changing: &[(About, usize)]) -> Vec<usize> {
        let weight = |(about, sectors): &(About, usize)| if *sectors < FEW { 0 } else { about.weight() };
        let weights: usize = changing.iter().map(weight).sum();
        // Two of three random states are the same as others.
        let all = self.states * 4;
        let share = |it: &(About, usize)| match it {
            (About::Ext4, _) => 0,
            (_, sectors) if *sectors < FEW => 4 << *sectors,
            _ => (all * weight(it)).div_ceil(weights.max(1)),
        };
        changing.iter().map(share).collect()
    }

    /// Epochs of the installation and later ones, in turn. Each one that may change what starts has the same chance.
    /// `installed`: the first one with a complete installation before it.
    fn epochs_to_pick_from(&self, changing: &[(About, usize)], installed: usize, random: &mut Random) -> Vec<usize> {
        let deciding = |range: Range<usize>| -> Vec<usize> {
            range.filter(|index| matches!(changing[*index], (About::Selection, 1..))).collect()
        };
        let halves = [deciding(0..installed), deciding(installed..changing.len())];
        let pick = |number: usize| {
            let half = &halves[number % 2];
            half.get(random.below(half.len())).copied()
        };
        (0..self.sample).filter_map(pick).collect()
    }
}

/// What each epoch is about, and how many sectors it changes.
fn changing(recording: &Recording) -> Vec<(About, usize)> {
    let mut disk = recording.before();
    let of = |epoch: &Epoch| {
        let changing = (About::of(epoch, recording), epoch.changing(&disk));
        epoch.apply(&mut disk);
        changing
    };
    recording.epochs.iter().map(of).collect()
}

/// What boot selection finds after each whole write. Any other outcome is neither the old nor the new system.
fn outcomes(
    epoch: &Epoch,
    disk: &mut DiskState,
    examiner: &mut Examiner,
    index: usize,
    figures: &mut Figures,
) -> Result<Vec<Selection>> {
    let mut allowed: Vec<Selection> = Vec::new();
    epoch.prefixes(disk, |disk| {
        match examiner.examine(disk) {
            Ok(selection) if !allowed.contains(&selection) => allowed.push(selection),
            Ok(_) => {}
            // The same state is counted among all states.
            Err(fault) if allowed.is_empty() => figures.fault(index, &format!("after a flush: {fault}")),
            Err(_) => {}
        }
        Ok(())
    })?;
    // What started before the epoch does not cease to start.
    if allowed.first().is_some_and(|first| *first != Selection::Nothing) {
        allowed.retain(|selection| *selection != Selection::Nothing);
    }
    Ok(allowed)
}

impl About {
    fn of(epoch: &Epoch, recording: &Recording) -> Self {
        let places = &recording.places;
        let within = |roles: &[Role], sector: u32| roles.iter().any(|role| places.partition(*role).contains(&sector));
        let partitions = Role::ALL;
        if epoch.touches(|sector| within(&[Role::Boot], sector) || !within(&partitions, sector)) {
            Self::Selection
        } else if epoch.touches(|sector| !within(&[Role::Oem, Role::Persistent], sector)) {
            Self::Content
        } else {
            Self::Ext4
        }
    }

    fn torn(self) -> bool {
        self != Self::Ext4
    }

    /// How many random states, in proportion.
    fn weight(self) -> usize {
        match self {
            Self::Selection => 8,
            Self::Content => 1,
            Self::Ext4 => 0,
        }
    }
}

/// Picks some of many states, each with the same chance.
struct Picks {
    wanted: usize,
    seen: usize,
    kept: Vec<Sample>,
}

impl Picks {
    fn new(wanted: usize) -> Self {
        Self { wanted, seen: 0, kept: Vec::new() }
    }

    fn offer(&mut self, seed: u64, number: usize, sample: impl FnOnce() -> Sample) {
        if self.wanted == 0 {
            return;
        }
        self.seen += 1;
        // A generator of its own: what is picked does not change what is visited.
        let place = Random::new(seed ^ number as u64).below(self.seen);
        if self.kept.len() < self.wanted {
            self.kept.push(sample());
        } else if let Some(kept) = self.kept.get_mut(place) {
            *kept = sample();
        }
    }

    fn into_samples(self) -> Vec<Sample> {
        self.kept
    }
}

impl Figures {
    fn fault(&mut self, epoch: usize, text: &str) {
        self.bad += 1;
        let text = format!("epoch {epoch}: {text}");
        if self.faults.len() < MOST_FAULTS || self.faults.contains_key(&text) {
            *self.faults.entry(text).or_default() += 1;
        }
    }

    /// Fails if a state was bad, or if fewer states were visited than wanted.
    pub fn expect_none_bad(&self, wanted: usize) -> Result<()> {
        ensure!(self.bad == 0, "{self}:\n{:#?}", self.faults);
        ensure!(self.distinct >= wanted, "{self}; wanted {wanted} distinct ones");
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writes, epochs, states, distinct, nothing, bad, took, .. } = self;
        write!(
            f,
            "{writes} writes in {epochs} epochs; {states} states, {distinct} of them distinct, nothing starts from \
             {nothing} of them; {bad} bad; {:.1} s",
            took.as_secs_f64()
        )
    }
}

impl Sample {
    /// Makes a disk in this state.
    pub fn write_file(&self, recording: &Recording, path: &Path) -> Result<()> {
        let mut disk = recording.before();
        recording.epochs[..self.epoch].iter().for_each(|epoch| epoch.apply(&mut disk));
        self.changes.iter().for_each(|(sector, number)| disk.set(*sector, *number));
        disk.write_file(path).with_context(|| format!("writing {}", path.display()))
    }

    /// Where in the recording it is.
    pub fn name(&self) -> String {
        let zeros = self.changes.iter().filter(|(_, number)| *number == ZERO).count();
        format!("epoch {}, {} sectors written, {zeros} of them with zeros", self.epoch, self.changes.len())
    }
}
