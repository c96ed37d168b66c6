//! Every state in which a power cut may leave a disk, from a recording of its writes ([`qemu::write_log`]), and what would
//! start from each. `docs/power-cuts.md` says what is checked and what is not.
//!
//! Between two flushes a disk may have taken any of the writes, in any order, and of a write any of its sectors. A state
//! is a number for the content of each sector, so that the next state costs as much as it differs.

mod boot_files;
mod check;
mod contents;
mod epoch;
mod ext4;
mod random;
mod recording;
mod selection;
mod state;
mod table;

pub use check::{Check, Figures, Sample};
pub use ext4::{Ext4Figures, check_ext4};
pub use recording::Recording;
pub use selection::Selection;

#[cfg(test)]
mod tests;
