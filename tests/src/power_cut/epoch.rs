//! The writes between two flushes, and the states in which a power cut may leave them.

use super::random::Random;
use super::recording::Write;
use super::state::DiskState;
use anyhow::Result;

/// Of this many writes, or sectors, every subset is a state.
const ALL_SUBSETS: usize = 8;
/// A write that changes more sectors carries content, and is torn in random places.
const SMALL: usize = 64;
/// How often a large write is torn.
const TEARS: usize = 8;

pub struct Epoch {
    writes: Vec<Write>,
    /// Every sector that is written, in order, with its versions.
    touched: Vec<Touched>,
}

struct Touched {
    sector: u32,
    /// Write and content, in the order of the writes.
    versions: Vec<(usize, u32)>,
}

impl Touched {
    fn changes(&self, before: u32) -> bool {
        self.versions.iter().any(|(_, number)| *number != before)
    }
}

/// A state of the disk within an epoch: which version each sector has, 0 for what was there before.
struct Choice<'a> {
    epoch: &'a Epoch,
    disk: &'a mut DiskState,
    before: Vec<u32>,
    /// Whether the disk took each write.
    taken: Vec<bool>,
}

/// Which states are visited.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Whether writes are torn into sectors.
    pub torn: bool,
    /// Random states, apart from those that are always visited.
    pub random: usize,
}

impl Epoch {
    pub fn new(writes: Vec<Write>) -> Self {
        let mut all: Vec<(u32, usize, u32)> = Vec::new();
        for (index, write) in writes.iter().enumerate() {
            all.extend(write.sectors().zip(&write.numbers).map(|(sector, number)| (sector, index, *number)));
        }
        all.sort_unstable();
        let mut touched: Vec<Touched> = Vec::new();
        for (sector, write, number) in all {
            match touched.last_mut().filter(|last| last.sector == sector) {
                Some(last) => last.versions.push((write, number)),
                None => touched.push(Touched { sector, versions: vec![(write, number)] }),
            }
        }
        Self { writes, touched }
    }

    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    pub fn touches(&self, mut is_within: impl FnMut(u32) -> bool) -> bool {
        self.writes.iter().any(|write| is_within(write.first))
    }

    /// Leaves everything on the disk, as the flush at the end does.
    pub fn apply(&self, disk: &mut DiskState) {
        for touched in &self.touched {
            if let Some((_, number)) = touched.versions.last() {
                disk.set(touched.sector, *number);
            }
        }
    }

    /// Calls `visit` after each whole write, in order, and first with nothing written. The disk is as before afterwards.
    pub fn prefixes(&self, disk: &mut DiskState, mut visit: impl FnMut(&DiskState) -> Result<()>) -> Result<()> {
        let mut choice = Choice::new(self, disk);
        visit(choice.disk)?;
        for index in 0..self.writes.len() {
            choice.take(index, true);
            visit(choice.disk)?;
        }
        choice.undo();
        Ok(())
    }

    /// The same, and then with each single write left out.
    pub fn prefixes_and_losses(
        &self,
        disk: &mut DiskState,
        visit: &mut dyn FnMut(&DiskState) -> Result<()>,
    ) -> Result<()> {
        let mut choice = Choice::new(self, disk);
        choice.in_order(false, &mut Random::new(0), visit)?;
        choice.single_losses(false, visit)?;
        choice.undo();
        Ok(())
    }

    /// How many sectors may differ from the disk before the epoch.
    pub fn changing(&self, disk: &DiskState) -> usize {
        self.touched.iter().filter(|touched| touched.changes(disk.number(touched.sector))).count()
    }

    /// What a state of this epoch differs in from the disk before it, whose contents are not known here: every sector that
    /// the epoch touches, with the content that it has.
    pub fn changes(&self, disk: &DiskState) -> Vec<(u32, u32)> {
        self.touched.iter().map(|touched| (touched.sector, disk.number(touched.sector))).collect()
    }

    /// Calls `visit` with every state of this extent. The disk is as before afterwards.
    pub fn states(
        &self,
        disk: &mut DiskState,
        extent: Extent,
        random: &mut Random,
        visit: &mut dyn FnMut(&DiskState) -> Result<()>,
    ) -> Result<()> {
        let mut choice = Choice::new(self, disk);
        choice.in_order(extent.torn, random, visit)?;
        choice.single_losses(extent.torn, visit)?;
        choice.undo();
        let is_small = choice.subsets_of_writes(extent.random / 2, random, visit)?;
        choice.undo();
        if extent.torn {
            let left = if is_small { extent.random } else { extent.random.div_ceil(2) };
            choice.subsets_of_sectors(left, random, visit)?;
            choice.undo();
        }
        Ok(())
    }
}

impl<'a> Choice<'a> {
    fn new(epoch: &'a Epoch, disk: &'a mut DiskState) -> Self {
        let before = epoch.touched.iter().map(|touched| disk.number(touched.sector)).collect();
        Self { epoch, before, taken: vec![false; epoch.writes.len()], disk }
    }

    fn undo(&mut self) {
        for index in 0..self.before.len() {
            self.version(index, 0);
        }
        self.taken.fill(false);
    }

    /// Gives the sector with this index a version.
    fn version(&mut self, index: usize, version: usize) {
        let touched = &self.epoch.touched[index];
        let number = match version.checked_sub(1) {
            Some(version) => touched.versions[version].1,
            None => self.before[index],
        };
        self.disk.set(touched.sector, number);
    }

    /// Indices of the sectors of a write. They follow one another, because all of them are touched.
    fn sectors_of(&self, write: usize) -> std::ops::Range<usize> {
        let write = &self.epoch.writes[write];
        let start = self.epoch.touched.partition_point(|touched| touched.sector < write.first);
        start..start + write.numbers.len()
    }

    fn changes(&self, index: usize) -> bool {
        self.epoch.touched[index].changes(self.before[index])
    }

    /// The sectors of a write that may differ from the disk before the epoch. `None` if they are many.
    fn few_changing(&self, write: usize) -> Option<Vec<usize>> {
        let changing: Vec<usize> = self.sectors_of(write).filter(|index| self.changes(*index)).collect();
        (changing.len() <= SMALL).then_some(changing)
    }

    /// Gives a sector the version of the last write that the disk took.
    fn settle(&mut self, index: usize) {
        let versions = &self.epoch.touched[index].versions;
        let version = versions.iter().rposition(|(write, _)| self.taken[*write]).map_or(0, |last| last + 1);
        self.version(index, version);
    }

    fn take(&mut self, write: usize, is_taken: bool) {
        self.taken[write] = is_taken;
        for index in self.sectors_of(write) {
            self.settle(index);
        }
    }

    /// Every prefix. A write that changes few sectors is torn before each of these, another one in random places. In the
    /// end everything is taken.
    fn in_order(
        &mut self,
        torn: bool,
        random: &mut Random,
        visit: &mut dyn FnMut(&DiskState) -> Result<()>,
    ) -> Result<()> {
        visit(self.disk)?;
        for write in 0..self.taken.len() {
            let sectors = self.sectors_of(write);
            let tears = match () {
                () if !torn => Vec::new(),
                () => self
                    .few_changing(write)
                    .unwrap_or_else(|| (0..TEARS).map(|_| sectors.start + random.below(sectors.len())).collect()),
            };
            self.taken[write] = true;
            for index in sectors {
                if tears.contains(&index) {
                    visit(self.disk)?;
                }
                self.settle(index);
            }
            visit(self.disk)?;
        }
        Ok(())
    }

    /// Everything is taken but one write, or one sector of a write that changes few.
    fn single_losses(&mut self, torn: bool, visit: &mut dyn FnMut(&DiskState) -> Result<()>) -> Result<()> {
        for write in 0..self.taken.len() {
            self.take(write, false);
            visit(self.disk)?;
            self.take(write, true);
            for index in self.few_changing(write).filter(|_| torn).unwrap_or_default() {
                self.version(index, 0);
                visit(self.disk)?;
                self.settle(index);
            }
        }
        Ok(())
    }

    /// All subsets of a few writes, or `count` random ones. Returns whether they were all.
    fn subsets_of_writes(
        &mut self,
        count: usize,
        random: &mut Random,
        visit: &mut dyn FnMut(&DiskState) -> Result<()>,
    ) -> Result<bool> {
        let writes = self.taken.len();
        if writes <= ALL_SUBSETS {
            // In this order (Gray's code) each subset differs from the one before by one write.
            for number in 1..1usize << writes {
                let write = number.trailing_zeros() as usize;
                self.take(write, !self.taken[write]);
                visit(self.disk)?;
            }
            return Ok(true);
        }
        for write in 0..writes {
            self.take(write, random.below(2) == 0);
        }
        for _ in 0..count {
            for _ in 0..=random.below(writes / 4) {
                let write = random.below(writes);
                self.take(write, !self.taken[write]);
            }
            visit(self.disk)?;
        }
        Ok(false)
    }

    /// Random versions for all sectors, `count` times. Every second change is in a small write: these are the ones that
    /// say where the content is.
    fn subsets_of_sectors(
        &mut self,
        count: usize,
        random: &mut Random,
        visit: &mut dyn FnMut(&DiskState) -> Result<()>,
    ) -> Result<()> {
        let small: Vec<usize> = (0..self.taken.len()).filter_map(|write| self.few_changing(write)).flatten().collect();
        let all: Vec<usize> = (0..self.before.len()).filter(|index| self.changes(*index)).collect();
        if all.len() < 2 {
            return Ok(());
        }
        for index in &all {
            self.random_version(*index, random);
        }
        for _ in 0..count {
            for _ in 0..=random.below(all.len().min(32)) {
                let is_small = !small.is_empty() && random.below(2) == 0;
                let from = if is_small { &small } else { &all };
                self.random_version(from[random.below(from.len())], random);
            }
            visit(self.disk)?;
        }
        Ok(())
    }

    fn random_version(&mut self, index: usize, random: &mut Random) {
        let versions = self.epoch.touched[index].versions.len();
        self.version(index, random.below(versions + 1));
    }
}
