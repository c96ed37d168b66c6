//! Cuts the power at any write of an installation and checks what a probe then finds on the disk.

use super::examine;
use disk::execute::execute_on;
use disk::fixtures::Fixture;
use disk::gpt::boot_partition;
use disk::layout::Role;
use disk::marker::{Marker, OFFSET, State};
use disk::plan::Request;
use disk::target::{Disk, Target};
use nix::libc;
use proptest::prelude::*;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A disk that loses power before a write. It keeps all, none or some of the physical sectors of each write since the
/// last flush.
struct PowerCut {
    disk: Disk,
    writes_left: usize,
    random: u64,
    /// Offset of each unflushed write, and the bytes that were there before.
    unflushed: Vec<(u64, Vec<u8>)>,
}

/// The smallest. A disk with larger ones loses whole groups of these.
const PHYSICAL_SECTOR: usize = 512;

impl PowerCut {
    fn new(disk: &Path, writes_left: usize, seed: u64) -> Self {
        Self { disk: Disk::open(disk).unwrap(), writes_left, random: seed, unflushed: Vec::new() }
    }

    /// The next number of Splitmix64. Each seed gives a different sequence.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn lose(&mut self) -> io::Result<()> {
        while let Some((offset, before)) = self.unflushed.pop() {
            let fate = self.draw() % 3;
            for (number, sector) in before.chunks(PHYSICAL_SECTOR).enumerate() {
                if fate == 0 || (fate == 1 && self.draw().is_multiple_of(2)) {
                    self.disk.write_at(offset + (number * PHYSICAL_SECTOR) as u64, sector)?;
                }
            }
        }
        Ok(())
    }
}

impl Target for PowerCut {
    fn length(&self) -> u64 {
        self.disk.length()
    }
    fn sector_bytes(&self) -> u32 {
        self.disk.sector_bytes()
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(left) = self.writes_left.checked_sub(1) else {
            self.lose()?;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        };
        self.writes_left = left;
        let mut before = vec![0; bytes.len()];
        self.disk.read_at(offset, &mut before)?;
        self.unflushed.push((offset, before));
        self.disk.write_at(offset, bytes)
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buffer)
    }
    fn flush(&mut self) -> io::Result<()> {
        // The power is cut before the next write is made, possibly already at this flush.
        if self.writes_left == 0 {
            self.lose()?;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.unflushed.clear();
        self.disk.flush()
    }
    fn announce(&mut self) -> io::Result<()> {
        self.disk.announce()
    }
}

/// Each case is two installations. `make fuzz` runs many more cases.
fn power_cuts() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(16), ..usual }
}

proptest! {
    #![proptest_config(power_cuts())]

    #[test]
    fn a_power_cut_at_any_write_leaves_a_whole_system_or_one_to_install_again(place: prop::sample::Index, seed: u64) {
        let fixture = Fixture::new(&Request::default());
        let mut whole = PowerCut::new(fixture.disk.path(), usize::MAX, seed);
        execute_on(&mut whole, &fixture.plan, &fixture.release, &mut |_| {}).unwrap();
        let writes = usize::MAX - whole.writes_left;
        // The earlier system differs from the one that is installed over it.
        let slots = [Role::StateA, Role::Recovery].map(|role| fixture.plan.layout.partition(role).offset);
        let disk = fixture.disk.as_file();
        let mut older = fixture.root.clone();
        older[fixture.root.len() / 2] ^= 1;
        slots.iter().for_each(|offset| disk.write_all_at(&older, *offset).unwrap());

        let mut cut = PowerCut::new(fixture.disk.path(), place.index(writes) + 1, seed);
        let ended = execute_on(&mut cut, &fixture.plan, &fixture.release, &mut |_| {});
        // The number of pieces of a sparse image may differ between runs. With fewer pieces the cut never happens.
        prop_assert!(ended.is_err() || cut.writes_left > 0);
        let found = examine(fixture.disk.path(), 512, &[]);
        let mut head = vec![0; OFFSET as usize];
        disk.read_exact_at(&mut head, 0).unwrap();
        let starts = boot_partition(&head, 512, "/dev/vda").is_some();
        let mut held = [older.clone(), older.clone()];
        held.iter_mut().zip(slots).for_each(|(held, offset)| disk.read_exact_at(held, offset).unwrap());
        let is_old = held.iter().all(|held| *held == older);
        let marker = Marker::read(fixture.disk.path()).unwrap().map(|marker| marker.state);
        // The very first write removes the old table and writes the marker in one write. If only a part of it reaches
        // the disk, the next installation takes what is left for data that only `wipe` covers, as this installation
        // did.
        let torn_at_once = is_old && marker == Some(State::Complete);
        prop_assert!(starts || found.unfinished || torn_at_once, "neither whole nor unfinished: {:?}", found);
        if starts {
            prop_assert!(is_old || held.iter().all(|held| *held == fixture.root));
        }
    }
}
