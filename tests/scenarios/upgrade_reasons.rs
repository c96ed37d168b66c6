//! Each reason for which a machine does not run a release has a row in the documentation: what it means, and what to do.

use qemu::paths;
use std::fs;

/// Sources with reasons, and the page with their rows.
const REASONS: &[(&str, &str)] = &[
    ("crates/registry/src/error.rs", "docs/upgrade-image.md"),
    ("crates/release/src/signature.rs", "docs/sign-releases.md"),
    ("installer/src/upgrade/error.rs", "docs/upgrade.md"),
    ("installer/src/upgrade/plan.rs", "docs/upgrade.md"),
];

fn read(path: &str) -> String {
    fs::read_to_string(paths::workspace().join(path)).unwrap()
}

/// The texts that a `match` of a source gives: `=> "SlotTooSmall",`.
fn reasons(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","))
}

#[test]
fn have_a_row_with_a_remedy() {
    for (source, page) in REASONS {
        let (text, page_text) = (read(source), read(page));
        let mut found = 0;
        for reason in reasons(&text) {
            found += 1;
            let start = format!("| `{reason}` |");
            let row = page_text.lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("{page} has no row for {reason} of {source}"));
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
            assert!(cells.len() == 3 && cells.iter().all(|cell| cell.len() > 3), "{page}: {row}");
        }
        assert!(found >= 3, "{source} has {found} reasons");
    }
}
