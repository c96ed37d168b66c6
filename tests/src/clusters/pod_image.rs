//! The image that tests run in pods: one static program, from `tests/go/pod/`.

use crate::clusters::go_program::GoProgram;
use anyhow::{Context, Result};
use iso::build::tree::{Node, Tree};
use iso::oci::{self, Image, Layer};
use registry::RegistriesFile;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::NamedTempFile;

const POD: GoProgram = GoProgram {
    name: "pod",
    package: ".",
    linker_flags: "-s -w",
    links: &["pod"],
    effort: "the program of test pods, some seconds",
};

/// Pushes the image to the registry at this port, under a name with a tag such as `pause:3.10`. Its program waits for its end,
/// and serves HTTP at the address that it gets as an argument.
pub async fn push(port: u16, name: &str) -> Result<()> {
    let archive = NamedTempFile::new().context("making a temporary file for the image")?;
    let path = archive.path().to_owned();
    tokio::task::spawn_blocking(move || write(&path)).await.context("writing the image")??;
    let reference = format!("127.0.0.1:{port}/{name}").parse()?;
    registry::push(archive.path(), &reference, &RegistriesFile::default(), Arc::new(|_, _| ())).await?;
    Ok(())
}

fn write(archive: &Path) -> Result<()> {
    let program = POD.folder()?.join("pod");
    let program = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let mut files = Tree::default();
    files.insert("pod", Node::file(0o755, program))?;
    let image = Image {
        reference: None,
        title: "pod",
        description: "Waits, or serves HTTP",
        version: "1",
        user: "0:0",
        entrypoint: &["/pod"],
        environment: &[],
        ports: &[],
        annotations: &[],
        epoch: 0,
    };
    oci::write(&image, &[Layer::gzip(&files, image.epoch)?], archive).map(drop)
}
