//! The base of a release: a system without what we add. Our own recipe makes it of Debian packages; anything else that can be
//! one is brought into the same form, a tar archive.

mod compression;
pub mod hook;
mod image;
mod libraries;
pub mod needs;
pub mod recipe;
pub mod source;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use registry::{Patience, PullStep, Reference, RegistriesFile};
use release::digest;

use super::tree::Tree;
use crate::cache::{Cache, Key};
use crate::progress::{self, Tenths};
use image::Image;
use source::Source;

/// What all layers together may unpack to, in bytes.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;

/// Brings `source` into the form of the other stages, an archive `base.tar` whose folder is named by the digest of its inputs.
/// Nothing but the cache is written to, and a base that was brought in before is found there.
pub fn prepare(cache: &Cache, source: &Source, registries: &RegistriesFile, epoch: u32) -> Result<PathBuf> {
    let what = || format!("reading the base {source}");
    let key = Key::new().this_program()?.text("epoch", epoch.to_string());
    let base = match source {
        Source::Image(reference) => of_layout(cache, key, &pull(cache, reference, registries)?, source, epoch),
        Source::Folder(folder) if folder.join("oci-layout").is_file() => of_layout(cache, key, folder, source, epoch),
        Source::Folder(folder) => Tree::from_folder(folder).and_then(|tree| {
            let mut digested = digest::Writer::default();
            tree.write_tar(&mut digested, epoch)?;
            let key = key.text("folder", digested.finish());
            cache.stage("base", key, &what(), |folder| write(&tree, folder, epoch))
        }),
        Source::Archive(path) => key.file("archive", path).and_then(|key| {
            cache.stage("base", key, &what(), |folder| {
                let temporary = tempfile::tempdir_in(folder).context("creating a temporary folder")?;
                let plain = compression::plain(path, temporary.path(), MAX_UNPACKED_BYTES)?;
                let files = Tree::from_tar(&plain)?;
                match Image::of(&files)? {
                    Some(image) => write(&image.unpack(&files, temporary.path())?, folder, epoch),
                    None => write(&files, folder, epoch),
                }
            })
        }),
    };
    Ok(base.with_context(what)?.join("base.tar"))
}

/// The image in the folder of a layout.
fn of_layout(cache: &Cache, key: Key, layout: &Path, source: &Source, epoch: u32) -> Result<PathBuf> {
    let mut files = Tree::default();
    files.lay_over(layout, "")?;
    let image = Image::of(&files)?.with_context(|| format!("{} has no index.json", layout.display()))?;
    let key = key.text("image", &image.digest);
    cache.stage("base", key, &format!("reading the base {source}"), |folder| {
        let temporary = tempfile::tempdir_in(folder).context("creating a temporary folder")?;
        write(&image.unpack(&files, temporary.path())?, folder, epoch)
    })
}

fn write(tree: &Tree, folder: &Path, epoch: u32) -> Result<()> {
    let path = folder.join("base.tar");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    tree.write_tar(BufWriter::new(file), epoch).with_context(|| format!("writing {}", path.display()))
}

/// Pulls an image into the cache. A tag may lead to another image than last time; layers that are the same stay.
fn pull(cache: &Cache, reference: &Reference, registries: &RegistriesFile) -> Result<PathBuf> {
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let folder = cache.folder(&format!("images/{}", &digest::of_bytes(repository.as_bytes())[..16]))?;
    // Two builds must not write one file.
    let lock = File::create(folder.with_extension("lock")).context("creating a lock")?;
    lock.lock().context("waiting for another build")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    progress::stage(&format!("pulling {reference}"), || {
        let tenths = Tenths::default();
        let mut tell = |step: PullStep<'_>| match step {
            PullStep::Fetched { bytes, total } => tenths.tell(bytes, total),
            PullStep::Waits { error, wait, .. } => {
                eprintln!("ros-image: {error}; trying again in {} s", wait.as_secs());
            }
        };
        let pulled = registry::pull_layout(reference, &folder, registries, Patience::BRIEF, &mut tell);
        runtime.block_on(pulled).map(drop).with_context(|| format!("pulling {reference}"))
    })?;
    Ok(folder)
}
