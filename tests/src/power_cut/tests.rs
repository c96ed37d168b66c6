//! The check of an installation that runs in this process, and that the check finds what it should.

use super::contents::Contents;
use super::epoch::{Epoch, Extent};
use super::random::Random;
use super::recording::{Recording, Write};
use super::state::{DiskState, Places};
use super::{Check, Figures};
use disk::execute::execute_on;
use disk::fixtures::Fixture;
use disk::plan::Request;
use disk::target::{Disk, Target};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

/// A disk that records what an installation writes.
struct Recorder {
    disk: Disk,
    contents: Contents,
    writes: Vec<Write>,
    epochs: Vec<Epoch>,
    /// Which flushes are passed over, by their number.
    ignored: fn(usize) -> bool,
    flushes: usize,
}

impl Target for Recorder {
    fn length(&self) -> u64 {
        self.disk.length()
    }
    fn sector_bytes(&self) -> u32 {
        self.disk.sector_bytes()
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writes.push(Write { first: (offset / 512) as u32, numbers: self.contents.numbers(bytes) });
        self.disk.write_at(offset, bytes)
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        if !(self.ignored)(self.flushes) {
            self.epochs.push(Epoch::new(std::mem::take(&mut self.writes)));
        }
        self.flushes += 1;
        self.disk.flush()
    }
    fn announce(&mut self) -> io::Result<()> {
        self.disk.announce()
    }
}

fn installation(states: usize, ignored: fn(usize) -> bool) -> Figures {
    let fixture = Fixture::new(&Request::default());
    let disk = Disk::open(fixture.disk.path()).unwrap();
    let (contents, writes, epochs) = (Contents::new(), Vec::new(), Vec::new());
    let mut recorder = Recorder { disk, contents, writes, epochs, ignored, flushes: 0 };
    execute_on(&mut recorder, &fixture.plan, &fixture.release, &mut |_| {}).unwrap();
    let Recorder { disk, contents, writes, mut epochs, .. } = recorder;
    epochs.push(Epoch::new(writes));
    let recording =
        Recording::new(contents, Epoch::new(Vec::new()), epochs, disk.length(), std::slice::from_ref(&fixture.root))
            .unwrap();
    Check { states, seed: 1, sample: 2 }.run(&recording).unwrap()
}

#[test]
fn an_installation_leaves_a_whole_system_or_one_to_begin_again_in_every_state() {
    let figures = installation(5000, |_| false);
    figures.expect_none_bad(300).unwrap();
    assert!(figures.nothing > 100 && figures.nothing < figures.states, "{figures}");
    assert_eq!(figures.sample.len(), 2, "one of the installation, and one with the system complete");
}

#[test]
fn an_installation_that_does_not_flush_before_the_table_is_found_out() {
    // The first three flushes are of the old tables and the marker.
    let figures = installation(1000, |number| number >= 3);
    assert!(figures.bad > 0 && figures.faults.keys().any(|fault| fault.contains("root image")), "{figures}");
}

fn write(first: u32, numbers: &[u32]) -> Write {
    Write { first, numbers: numbers.to_vec() }
}

/// The contents of the first three sectors in every state of an epoch with these writes.
fn states(writes: Vec<Write>, torn: bool) -> BTreeSet<[u32; 3]> {
    let mut contents = Contents::new();
    let numbers: Vec<u32> = (1..=6u8).map(|byte| contents.number(&[byte; 512])).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let places = Places { disk: 4096, partitions: Vec::new(), roots: Vec::new() };
    let mut disk = DiskState::blank(Rc::new(contents), Rc::new(places));
    let (mut seen, before) = (BTreeSet::new(), disk.key_of_start());
    let extent = Extent { torn, random: 200 };
    Epoch::new(writes)
        .states(&mut disk, extent, &mut Random::new(7), &mut |disk| {
            seen.insert([0, 1, 2].map(|sector| disk.number(sector)));
            Ok(())
        })
        .unwrap();
    assert_eq!(disk.key_of_start(), before, "the disk is as before");
    seen
}

#[test]
fn every_subset_of_a_few_writes_is_a_state() {
    let seen = states(vec![write(0, &[1]), write(1, &[2]), write(2, &[3])], false);
    assert_eq!(seen.len(), 8);
    let seen = states(vec![write(0, &[1, 2, 3])], false);
    assert_eq!(seen, BTreeSet::from([[0, 0, 0], [1, 2, 3]]));
}

#[test]
fn a_write_is_torn_into_sectors_and_an_older_version_may_stay() {
    assert_eq!(states(vec![write(0, &[1, 2, 3])], true).len(), 8);
    let seen = states(vec![write(0, &[1, 2]), write(1, &[4, 5])], true);
    let expected = [0, 1].into_iter().flat_map(|a| [0, 2, 4].into_iter().flat_map(move |b| [0, 5].map(|c| [a, b, c])));
    assert_eq!(seen, expected.collect());
}
