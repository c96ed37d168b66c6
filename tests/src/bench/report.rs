//! All outcomes, as JSON and as the table in the README.

use super::figure::{Outcome, short};
use anyhow::{Context, Result};
use qemu::accelerator::Accelerator;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// `bench.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub host: Host,
    pub figures: Vec<Outcome>,
}

/// The host. Values of two hosts must not be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    /// The accelerator of virtual machines: `Kvm` or `Tcg`.
    pub accelerator: String,
}

const BEGIN: &str = "<!-- bench: begin; written by `make bench` -->";
const END: &str = "<!-- bench: end -->";

impl Host {
    pub fn this() -> Result<Self> {
        let information = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            processor: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
            processors: std::thread::available_parallelism().context("counting processors")?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .context("reading the kernel's release")?
                .trim()
                .to_owned(),
            accelerator: format!("{:?}", Accelerator::best()),
        })
    }
}

impl Report {
    /// Reads the file of an earlier run, without figures of another host. Empty if there is no file.
    pub fn continue_from(file: &Path) -> Result<Self> {
        let host = Host::this()?;
        let Ok(text) = fs::read_to_string(file) else { return Ok(Self { host, figures: Vec::new() }) };
        let earlier: Self = serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        Ok(if earlier.host == host { earlier } else { Self { host, figures: Vec::new() } })
    }

    /// Adds outcomes. They replace older ones of the same name.
    pub fn add(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            match self.figures.iter_mut().find(|known| known.name == outcome.name) {
                Some(known) => *known = outcome,
                None => self.figures.push(outcome),
            }
        }
    }

    pub fn save(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let mut text = serde_json::to_string_pretty(self).context("writing a report")?;
        text.push('\n');
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// The table in Markdown.
    pub fn table(&self) -> String {
        let Host { processor, processors, kernel, accelerator } = &self.host;
        let mut table = format!(
            "Medians on {processors} × {processor}, Linux {kernel}; virtual machines under {}.\n\n\
             | what | value | target | yardstick in the same run | runs |\n|---|---|---|---|---|\n",
            accelerator.to_uppercase()
        );
        for figure in &self.figures {
            let target = match (figure.target, figure.met) {
                (Some(target), Some(false)) => format!("{target}: **missed**"),
                (Some(target), _) => target.to_string(),
                (None, _) => String::new(),
            };
            let yardstick = figure.yardstick.as_ref();
            let yardstick = yardstick.map(|known| format!("{}: {} {}", known.what, short(known.value), figure.unit));
            table.push_str(&format!(
                "| {} | {} {} | {target} | {} | {} |\n",
                figure.title,
                short(figure.value),
                figure.unit,
                yardstick.unwrap_or_default(),
                figure.samples.len()
            ));
        }
        table
    }
}

/// Writes the table between the marks of a Markdown file. Rows of the same host that the table does not have stay. A file
/// without marks is not changed.
pub fn write_table(file: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let changed = between_marks(&text, table)
        .with_context(|| format!("finding the lines {BEGIN:?} and {END:?} in {}", file.display()))?;
    fs::write(file, changed).with_context(|| format!("writing {}", file.display()))
}

fn between_marks(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (earlier, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}{END}{after}", merged(earlier.trim_start(), table)))
}

/// The rows of both tables, those of the later one where both have one of the same title. The later table, if they are of
/// different hosts.
fn merged(earlier: &str, later: &str) -> String {
    if earlier.lines().next() != later.lines().next() {
        return later.to_owned();
    }
    let find = |table: &str, row: &str| table.lines().position(|other| title(other) == title(row));
    let newer = |row| title(row).and_then(|_| later.lines().nth(find(later, row)?)).unwrap_or(row);
    let added = later.lines().filter(|row| title(row).is_some() && find(earlier, row).is_none());
    earlier.lines().map(newer).chain(added).flat_map(|row| [row, "\n"]).collect()
}

/// The first cell of a row.
fn title(row: &str) -> Option<&str> {
    row.strip_prefix("| ").and_then(|row| row.split_once(" |")).map(|(title, _)| title)
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Target, Yardstick};
    use super::*;

    fn outcome(name: &str, value: f64) -> Outcome {
        Outcome {
            name: name.to_owned(),
            title: "Registrations".to_owned(),
            unit: "/s".to_owned(),
            value,
            samples: vec![value],
            target: Some(Target::AtLeast(60.0)),
            met: Some(value >= 60.0),
            yardstick: Some(Yardstick { what: "bare creates".to_owned(), value: 300.0 }),
        }
    }

    #[test]
    fn rows_that_were_not_measured_stay_where_the_host_is_the_same() {
        let rows = |host: &str, rows: &[&str]| {
            let rows: String = rows.iter().map(|row| format!("| {row} |\n")).collect();
            format!("Medians on {host}.\n\n| what | value |\n|---|---|\n{rows}")
        };
        let text = format!("a\n{BEGIN}\n{}{END}\nb\n", rows("x", &["memory | 1", "speed | 2"]));
        let after = |table: &str| between_marks(&text, table).unwrap();
        let both = rows("x", &["memory | 1", "speed | 3", "size | 4"]);
        assert_eq!(after(&rows("x", &["size | 4", "speed | 3"])), format!("a\n{BEGIN}\n{both}{END}\nb\n"));
        let other = rows("y", &["size | 4"]);
        assert_eq!(after(&other), format!("a\n{BEGIN}\n{other}{END}\nb\n"));
    }

    #[test]
    fn a_newer_outcome_takes_the_place_of_the_older() {
        let mut report = Report::default();
        report.add(vec![outcome("a", 50.0), outcome("b", 70.0)]);
        report.add(vec![outcome("a", 61.0)]);
        assert_eq!(report.figures, [outcome("a", 61.0), outcome("b", 70.0)]);
    }

    #[test]
    fn a_missed_target_is_said_in_the_table() {
        let report = Report { figures: vec![outcome("a", 50.0)], ..Report::default() };
        let row = "| Registrations | 50 /s | ≥ 60: **missed** | bare creates: 300 /s | 1 |";
        assert!(report.table().contains(row), "{}", report.table());
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(between_marks(&text, "new\n").unwrap(), format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(between_marks("no marks", "new"), None);
    }
}
