//! Figures of speed, size and memory. Each has a target, and some have a yardstick from the same run.

mod api_writes;
mod figure;
mod hostile_machines;
mod installation;
mod medium;
mod population;
pub mod process_cost;
mod registrations;
mod report;
mod round;
mod scale;
mod self_upgrades;
mod streams;
mod upgrade;

pub use figure::{Figure, Outcome, Sample, Target};
pub use registrations::Load;
pub use report::{Report, write_table};

use anyhow::Result;
use std::path::PathBuf;

/// A measurement. One run gives a sample of each of its figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measurement {
    /// Size of the live ISO, and time to put settings into media
    Medium,
    /// Media that the operator sends: their first byte, and its memory with 1,000 readers
    Streams,
    /// The operator while machines with software TPMs register
    Registrations,
    /// The operator with 200 machines at once, and with 10,000 and 50,000 inventories
    Scale,
    /// Hostile machines that send the largest allowed messages, beside honest machines with another token
    Hostile,
    /// The operator while 10,000 machines in memory upgrade themselves
    SelfUpgrades,
    /// A virtual machine from power-on to its report and through an upgrade, and the speed of its disk
    Installation,
}

/// The settings of all measurements.
#[derive(Clone, Debug)]
pub struct Settings {
    pub load: Load,
    /// The number of hostile machines.
    pub hostile: usize,
    /// The ISO to measure. `None` is the one that `make image` left.
    pub iso: Option<PathBuf>,
}

impl Measurement {
    pub const ALL: &'static [Self] = &[
        Self::Medium,
        Self::Streams,
        Self::Registrations,
        Self::Scale,
        Self::Hostile,
        Self::SelfUpgrades,
        Self::Installation,
    ];

    pub fn figures(self) -> Vec<&'static Figure> {
        let figures = match self {
            Self::Medium => medium::FIGURES,
            Self::Streams => streams::FIGURES,
            Self::Registrations => registrations::FIGURES,
            Self::Scale => scale::FIGURES,
            Self::Hostile => hostile_machines::FIGURES,
            Self::SelfUpgrades => self_upgrades::FIGURES,
            Self::Installation => return [installation::FIGURES, upgrade::FIGURES].concat(),
        };
        figures.to_vec()
    }

    /// Whether two runs can give different values.
    fn varies(self) -> bool {
        self != Self::Medium
    }

    async fn run(self, settings: &Settings) -> Result<Vec<Sample>> {
        match self {
            Self::Medium => medium::measure(settings.iso.as_deref()),
            Self::Streams => streams::measure().await,
            Self::Registrations => registrations::measure(&settings.load).await,
            Self::Scale => scale::measure().await,
            Self::Hostile => hostile_machines::measure(settings.hostile).await,
            Self::SelfUpgrades => self_upgrades::measure().await,
            Self::Installation => installation::measure().await,
        }
    }

    /// Measures `runs` times (once, if the values cannot differ) and takes the median of each figure.
    pub async fn take(self, settings: &Settings, runs: usize) -> Result<Vec<Outcome>> {
        let mut samples = Vec::new();
        let runs = if self.varies() { runs } else { 1 };
        for run in 1..=runs {
            eprintln!("{self:?}: run {run} of {runs}");
            for sample in self.run(settings).await? {
                eprintln!("  {sample}");
                samples.push(sample);
            }
        }
        Ok(self.figures().iter().filter_map(|figure| Outcome::of(figure, &samples)).collect())
    }
}
