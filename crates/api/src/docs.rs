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
    assert!(committed == page, "docs/conditions.md differs from the code; write it again with ROS_WRITE_GOLDEN=1");
}

fn page() -> String {
    let mut page = "# Conditions, reasons and refusals\n\n\
        `ROS_WRITE_GOLDEN=1 cargo test --release --workspace --lib docs::` writes this page from the code. A test \
        compares the two.\n\n\
        Every kind has the condition `Ready`, so `kubectl wait --for=condition=Ready` works on each of them.\n"
        .to_owned();
    page += "\n## Condition types\n";
    page += &table("type", &constants("condition_type"));
    for (kind, reasons) in groups("reason") {
        page += &format!("\n## Reasons of {kind}\n");
        page += &table("reason", &reasons);
    }
    page += "\n## Refusals of machines\n\n\
        The operator sends the machine a code and a message. The machine shows them on its console. Before a websocket \
        is open, they are the body of the HTTP response.\n\"Later\" says whether the same machine may succeed later \
        without a change to the machine or its medium.\n\n\
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
            assert!(!meaning.is_empty(), "{name} has no doc comment; write one that says what it means");
            groups.last_mut().unwrap().1.push((name, std::mem::take(&mut meaning)));
        }
    }
    groups.retain(|(_, constants)| !constants.is_empty());
    groups
}
