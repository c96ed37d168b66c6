//! The content of all consoles: whole lines under a heading that is repeated.

use std::collections::BTreeMap;

/// Columns of a serial terminal. A screen has at least as many.
const COLUMNS: usize = 80;
/// The heading is repeated after this many rows, so that 24 rows always show one.
const ROWS_PER_HEADING: usize = 20;
/// The parts of the heading, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heading {
    /// The system and its version.
    System,
    Machine,
    Address,
}

/// The content of all consoles.
#[derive(Default)]
pub(super) struct Page {
    pub(super) heading: BTreeMap<Heading, String>,
    pub(super) rows_since_heading: usize,
    /// Whether the last line is not ended, as a progress bar or a question.
    pub(super) line_is_open: bool,
}

impl Page {
    pub(super) fn compose(&mut self, text: &str) -> String {
        let mut shown = String::new();
        if std::mem::take(&mut self.line_is_open) {
            shown.push('\n');
        }
        let text = text.trim_end_matches('\n');
        let rows: usize = text.split('\n').map(rows).sum();
        if !self.heading.is_empty()
            && (self.rows_since_heading == 0 || self.rows_since_heading + rows > ROWS_PER_HEADING)
        {
            shown.push_str(&heading(&self.heading));
            self.rows_since_heading = 1;
        }
        self.rows_since_heading += rows;
        shown.push_str(text);
        shown.push('\n');
        shown
    }
}

/// One column shorter than a row: `--- RancherOS 0.1.0 installer | Acme Anvil, serial S-1 | eth0 10.0.2.15 -----`.
fn heading(parts: &BTreeMap<Heading, String>) -> String {
    let parts: Vec<&str> = parts.values().map(String::as_str).collect();
    let text: String = format!("--- {} ", parts.join(" | ")).chars().take(COLUMNS - 2).collect();
    format!("{text:-<width$}\n", width = COLUMNS - 1)
}

pub(super) fn rows(line: &str) -> usize {
    line.chars().count().div_ceil(COLUMNS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_screen_of_24_rows_has_a_heading() {
        let mut page = Page {
            heading: BTreeMap::from([(Heading::System, "RancherOS 0.1.0 installer".into())]),
            ..Page::default()
        };
        let shown: String =
            (0..100).map(|number| page.compose(&format!("{number}\n{}", "x".repeat(number % 160)))).collect();
        let mut lines: Vec<&str> = Vec::new();
        for line in shown.lines() {
            assert!(line.chars().count() <= 159, "{line}");
            lines.extend(std::iter::repeat_n(line, rows(line)));
        }
        for (first, screen) in lines.windows(24).enumerate() {
            assert!(screen.iter().any(|line| line.starts_with("--- RancherOS 0.1.0")), "from {first}: {screen:?}");
        }
        assert_eq!(heading(&BTreeMap::from([(Heading::Machine, "x".repeat(100))])).trim_end().len(), 79);
    }
}
