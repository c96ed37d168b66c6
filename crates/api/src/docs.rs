//! Renders `docs/conditions.md` from the code: all condition types, reasons and refusal codes.

use protocol::RefusalCode;

/// The source of types and reasons. The line above each is its meaning.
const SOURCE: &str = include_str!("reasons.rs");

#[test]
fn the_page_says_what_the_code_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conditions.md");
    let page = page();
    if std::env::var_os("ROS_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/conditions.md is not what the code says; write it anew with ROS_WRITE_GOLDEN=1");
}

fn page() -> String {
    let mut page = "# Conditions, reasons and refusals\n\n\
        Made from the code by `ROS_WRITE_GOLDEN=1 cargo test --release --workspace --lib docs::`; a test compares.\n\n\
        Every kind has `Ready`, so `kubectl wait --for=condition=Ready` works on each.\n"
        .to_owned();
    page += "\n## Condition types\n";
    page += &table("type", &constants("condition_type"));
    for (kind, reasons) in groups("reason") {
        page += &format!("\n## Reasons of {kind}\n");
        page += &table("reason", &reasons);
    }
    page += "\n## Refusals of machines\n\n\
        A machine is told the code and a message, on its console and, before a websocket is open, in the body of the \
        HTTP response.\n\"Later\" says whether the same machine may succeed without anybody changing it or its medium.\n\n\
        | code | status | later | meaning |\n|---|---|---|---|\n";
    for code in RefusalCode::ALL {
        let later = if code.may_succeed_later() { "yes" } else { "no" };
        page += &format!("| `{code}` | {} | {later} | {} |\n", code.http_status(), code.meaning());
    }
    page
}

fn table(what: &str, rows: &[(String, String)]) -> String {
    let rows = rows.iter().map(|(name, meaning)| format!("| `{name}` | {meaning} |\n"));
    format!("\n| {what} | meaning |\n|---|---|\n{}", rows.collect::<String>())
}

/// Name and meaning of all constants in a module of the source.
fn constants(module: &str) -> Vec<(String, String)> {
    groups(module).into_iter().flat_map(|(_, constants)| constants).collect()
}

/// The same, by the group in the comment above them.
fn groups(module: &str) -> Vec<(String, Vec<(String, String)>)> {
    let (_, body) = SOURCE.split_once(&format!("pub mod {module} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let mut groups = vec![(String::new(), Vec::new())];
    let mut meaning = String::new();
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            meaning = format!("{meaning}{words}").trim_start().to_owned();
        } else if let Some(kind) = line.strip_prefix("// ") {
            groups.push((kind.to_owned(), Vec::new()));
        } else if let Some(constant) = line.strip_prefix("pub const ") {
            let name = constant.split('"').nth(1).unwrap().to_owned();
            assert!(!meaning.is_empty(), "say in a line above {name} what it means");
            groups.last_mut().unwrap().1.push((name, std::mem::take(&mut meaning)));
        }
    }
    groups.retain(|(_, constants)| !constants.is_empty());
    groups
}
