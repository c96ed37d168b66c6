//! Dependencies between crates, and between the modules of the operator, have no cycles. Crates are read from
//! `cargo metadata`, modules from the paths in their source. `anyhow` is where errors are only printed.

use anyhow::{Context, Result, ensure};
use qemu::paths;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates by layer, lowest first. A crate depends only on crates of lower layers.
const CRATES: &[&[&str]] = &[
    &["boot-contract", "command", "cloud-config"],
    &["release"],
    &["protocol"],
    &["disk", "media", "attest", "api", "registry"],
    &["machine"],
    &["installer", "operator", "iso", "ros-init", "qemu"],
    &["tests"],
];

/// Crates that only these others may depend on.
const RESERVED: &[(&str, &[&str])] = &[
    ("attest", &["installer", "tests"]),
    ("machine", &["installer", "tests"]),
    ("api", &["operator", "tests"]),
    ("registry", &["installer", "iso", "tests"]),
];

/// Crates, and crates that must not be among their dependencies.
const WITHOUT: &[(&str, &[&str])] = &[
    ("boot-contract", &["*"]),
    ("protocol", &["kube", "reqwest", "tokio", "tss-esapi"]),
    ("disk", &["reqwest", "tokio", "tss-esapi"]),
    ("iso", &["tss-esapi", "reqwest"]),
];

/// The operator's modules by layer, lowest first. A module uses only modules of its own and of lower layers, without a
/// circle.
const MODULES: &[&[&str]] = &[
    &["digest"],
    &["kube"],
    &["inventory"],
    &["registration"],
    &["identity", "cluster", "rollout", "media"],
    &["observe"],
    &["context"],
    &["server", "controllers"],
    &["run"],
];

/// Files and folders of the operator and the installer that may use `anyhow`: they only print errors, or map them to exit
/// codes.
const WITH_ANYHOW: &[&str] = &["main.rs", "run.rs", "cli.rs", "exit_code.rs", "commands"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[test]
fn between_crates_run_down() -> Result<()> {
    let packages = packages()?;
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let layer = layer_of(CRATES, &package.name).with_context(|| format!("crate {} has no layer", package.name))?;
        for dependency in &package.dependencies {
            let (name, to) = (package.name.as_str(), dependency.name.as_str());
            let arrow = format!("{name} -> {to}");
            // Dependencies of tests are not linked into a program.
            if dependency.kind.as_deref() != Some("dev") {
                let without = WITHOUT.iter().filter(|(owner, _)| *owner == name).flat_map(|(_, others)| *others);
                wrong.extend(without.filter(|other| **other == "*" || **other == to).map(|_| arrow.clone()));
            }
            if names.contains(to) {
                let allowed = RESERVED.iter().find(|(owner, _)| *owner == to).map(|(_, users)| *users);
                let reserved = allowed.is_some_and(|users| !users.contains(&name));
                if reserved || layer_of(CRATES, to).is_none_or(|below| below >= layer) {
                    wrong.push(arrow);
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "dependencies that may not be:\n  {}", wrong.join("\n  "));
    Ok(())
}

#[test]
fn between_modules_of_the_operator_run_down() -> Result<()> {
    let source = paths::workspace().join("operator/src");
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files(&source)? {
        let relative = file.strip_prefix(&source)?.with_extension("");
        let module = relative.iter().next().context("a file without a name")?.to_string_lossy().into_owned();
        // The entry points wire everything; fixtures are for tests.
        if !["lib", "main", "fixtures"].contains(&module.as_str()) {
            let text = std::fs::read_to_string(&file)?;
            arrows.entry(module).or_default().extend(used_modules(&text));
        }
    }
    let mut wrong = Vec::new();
    for (module, used) in &arrows {
        let layer = layer_of(MODULES, module).with_context(|| format!("module {module} has no layer"))?;
        for other in used.iter().filter(|other| *other != module) {
            let below = layer_of(MODULES, other).with_context(|| format!("module {other} has no layer"))?;
            if below > layer || reaches(&arrows, other, module) {
                wrong.push(format!("{module} -> {other}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "these run up, or in a circle:\n  {}", wrong.join("\n  "));
    Ok(())
}

#[test]
fn errors_have_types_where_a_caller_may_branch() -> Result<()> {
    let mut wrong = Vec::new();
    for folder in ["crates", "installer/src", "operator/src"].map(|folder| paths::workspace().join(folder)) {
        for file in rust_files(&folder)? {
            let inside = file.strip_prefix(&folder)?;
            let may = WITH_ANYHOW.iter().any(|name| inside.starts_with(name));
            if !may && std::fs::read_to_string(&file)?.contains("anyhow::") {
                wrong.push(file.display().to_string());
            }
        }
    }
    ensure!(wrong.is_empty(), "these use anyhow:\n  {}", wrong.join("\n  "));
    Ok(())
}

fn packages() -> Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"])
        .current_dir(paths::workspace())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages)
}

fn layer_of(layers: &[&[&str]], name: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&name))
}

/// First segments of all paths that begin with `crate::`, without those of unit tests at the foot of a file.
fn used_modules(text: &str) -> impl Iterator<Item = String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let paths = code.split("crate::").skip(1);
    paths.map(|path| path.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect())
}

/// Whether `from` uses `to`, directly or through others.
fn reaches(arrows: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            open.extend(arrows.get(module).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

/// All Rust files below a folder, without files that contain only unit tests.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    Ok(found)
}
