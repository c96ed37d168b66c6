//! `make bench`: measures, writes `out/bench.json`, and puts the table into the README.

use anyhow::{Context, Result, bail};
use clap::Parser;
use harness::bench::{Load, Measurement, Report, Settings, write_table};
use harness::fakes::software_tpm::KeyKind;
use harness::interruption::interruption;
use qemu::paths;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure speed, sizes and memory, and compare each figure with its target and yardstick
///
/// Needs an otherwise idle host. Figures that a run does not measure keep their values from an earlier run on this
/// host. Exits with 1 if a target is missed, after everything was measured and written.
#[derive(Parser)]
struct Options {
    /// What to measure [default: everything]
    measurements: Vec<Measurement>,
    /// Number of runs; the value of a figure is their median
    #[arg(long, default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    runs: usize,
    /// Number of machines that register in one run
    #[arg(long, default_value_t = 600)]
    machines: usize,
    /// Number of machines that register at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    parallel: usize,
    /// Number of hostile machines that register beside honest ones
    #[arg(long, default_value_t = 20_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    hostile: usize,
    /// Give the machines RSA endorsement keys instead of P-256
    #[arg(long)]
    rsa: bool,
    /// The ISO to measure [default: the one in out/image/]
    #[arg(long)]
    iso: Option<PathBuf>,
    /// File for the results [default: out/bench.json of the clone]
    #[arg(long)]
    json: Option<PathBuf>,
    /// A Markdown file whose table is updated
    #[arg(long)]
    table: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let settings = Settings {
        load: Load {
            machines: options.machines,
            parallel: options.parallel,
            endorsement_keys: if options.rsa { KeyKind::Rsa2048 } else { KeyKind::P256 },
        },
        hostile: options.hostile,
        iso: options.iso,
    };
    let json = options.json.unwrap_or_else(|| paths::output().join("bench.json"));
    let mut report = Report::continue_from(&json)?;
    let chosen = if options.measurements.is_empty() { Measurement::ALL } else { &options.measurements };
    let mut missed = false;
    for measurement in chosen {
        let outcomes = tokio::select! {
            outcomes = measurement.take(&settings, options.runs) => outcomes,
            // Dropping the other branch ends what it started.
            () = interruption()? => bail!("interrupted; what was measured before is in {}", json.display()),
        };
        let outcomes = outcomes.with_context(|| format!("measuring {measurement:?}"))?;
        missed |= outcomes.iter().any(|outcome| outcome.met == Some(false));
        report.add(outcomes);
        // After each measurement, so that a failure in the next one loses nothing.
        report.save(&json)?;
    }
    print!("{}", report.table());
    if let Some(file) = options.table {
        write_table(&file, &report.table())?;
    }
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
