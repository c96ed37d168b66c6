//! The root image: base system, overlay, kernel modules and installer as one EROFS file with its verity tree.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use release::signature::PublicKey;
use release::{Verity, verity};

use super::authorities::{self, Authority};
use super::default_config;
use super::firmware::Firmware;
use super::foreign;
use super::kernel::Kernel;
use super::lists;
use super::signing;
use super::tools::Tools;
use super::tree::{Node, Tree};

const REMOVED: &str = include_str!("lists/remove.txt");
/// What a running system makes itself. mmdebstrap puts device nodes there.
const MADE_AT_BOOT: &str = "/dev/*";

/// Options of mkfs.erofs: zstd level 3 and clusters of 64 KiB. Higher levels and larger clusters cost minutes for a few
/// per cent. The ends of files are stored beside their inodes, which saves 5 % and a seek.
const COMPRESSION: &[&str] = &["-zzstd,3", "-C65536", "-Eztailpacking"];
/// The list of files that ros-init reads ahead.
const READ_AHEAD: &str = "usr/lib/ros/read-ahead.conf";
/// A constant UUID of the file system. The root hash identifies the image.
const FILESYSTEM_ID: &str = "-U526f734f-7353-4c6f-a401-000000000000";

pub struct RootInputs<'a> {
    pub base: &'a Tree,
    /// Whether the base is not made by our own recipe.
    pub is_foreign: bool,
    /// Later ones over earlier ones.
    pub overlays: &'a [PathBuf],
    pub installer: &'a Path,
    pub kernel: &'a Kernel,
    pub firmware: Option<&'a Firmware>,
    pub version: &'a str,
    /// By which machines that run this image take releases.
    pub release_keys: &'a [PublicKey],
    /// Whom programs on the machine trust beside the public authorities.
    pub authorities: &'a [Authority],
    /// The cloud-config of every machine. The machine's own is laid over it.
    pub cloud_config: Option<&'a str>,
    pub epoch: u32,
}

/// Writes `root.erofs` and `verity.json` into `folder`.
pub fn write(inputs: &RootInputs, tools: &Tools, folder: &Path) -> Result<()> {
    let tree = compose(inputs)?;
    let archive = tempfile::NamedTempFile::new_in(folder).context("creating a temporary archive")?;
    tree.write_tar(BufWriter::new(File::create(archive.path())?), inputs.epoch).context("archiving the root tree")?;
    let image = folder.join("root.erofs");
    tools
        .command("mkfs.erofs", "mkfs.erofs")
        .args(COMPRESSION)
        .args([&format!("-T{}", inputs.epoch), FILESYSTEM_ID, "--quiet", "--tar=f"])
        .arg(&image)
        .arg(archive.path())
        .run()?;
    let verity = verity::append(&image)?;
    let path = verity_path(folder);
    fs::write(&path, serde_json::to_vec(&verity)?).with_context(|| format!("writing {}", path.display()))
}

/// The verity parameters that `write` stored beside the image in `folder`.
pub fn read_verity(folder: &Path) -> Result<Verity> {
    let path = verity_path(folder);
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

fn verity_path(folder: &Path) -> PathBuf {
    folder.join("verity.json")
}

fn compose(inputs: &RootInputs) -> Result<Tree> {
    let mut tree = inputs.base.clone();
    if inputs.is_foreign {
        foreign::prepare(&mut tree)?;
    } else {
        tree.remove_listed(REMOVED)?;
        tree.remove_listed(MADE_AT_BOOT)?;
    }
    for overlay in inputs.overlays {
        lay_over(&mut tree, overlay)?;
    }
    let modules = format!("usr/lib/modules/{}", inputs.kernel.version);
    tree.insert(&modules, Node::folder(0o755))?;
    tree.lay_over(&inputs.kernel.modules(), &modules)?;
    if let Some(firmware) = inputs.firmware {
        firmware.add(&mut tree)?;
    }
    tree.insert("usr/bin/ros-installer", Node::stored(0o755, inputs.installer)?)?;
    // A mount point for ros-init. The root is read-only, so it cannot be made at boot.
    tree.insert("oem", Node::folder(0o700))?;
    for folder in ["etc", "var"] {
        // Must not be older than /usr. Otherwise systemd would rebuild its caches at every boot, and the image cannot
        // keep them.
        tree.insert(&format!("{folder}/.updated"), Node::file(0o644, updated(inputs.epoch)))?;
    }
    signing::add_keys(&mut tree, inputs.release_keys)?;
    authorities::add(&mut tree, inputs.authorities)?;
    default_config::add(&mut tree, inputs.cloud_config)?;
    name_version(&mut tree, inputs.version)?;
    if inputs.is_foreign {
        let present = foreign::present(&tree, &tree.text(READ_AHEAD)?);
        tree.insert(READ_AHEAD, Node::file(0o644, present))?;
    } else {
        check_read_ahead(&tree)?;
    }
    Ok(tree)
}

/// Folders of an overlay that the root image takes.
const PARTS: [&str; 2] = ["etc", "usr"];

/// Lays an overlay over the tree. Another folder than the two is an error, because it would be missing on the machine. Files
/// beside them, such as a README, stay out.
fn lay_over(tree: &mut Tree, overlay: &Path) -> Result<()> {
    let entries = fs::read_dir(overlay).with_context(|| format!("reading the overlay {}", overlay.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("reading the overlay {}", overlay.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            ensure!(
                PARTS.contains(&name.as_str()),
                "the overlay {} has a folder {name}; only etc and usr are copied, the rest of the system is made at each boot \
                 or kept on COS_PERSISTENT",
                overlay.display()
            );
            tree.lay_over(&entry.path(), &name)?;
        }
    }
    Ok(())
}

fn updated(epoch: u32) -> String {
    format!("TIMESTAMP_NSEC={epoch}000000000\n")
}

/// Fails if the list names a file that the image lacks. A file that a newer Debian renames would otherwise slow down
/// every start without a message.
fn check_read_ahead(tree: &Tree) -> Result<()> {
    let list = tree.text(READ_AHEAD)?;
    for file in lists::lines(&list) {
        ensure!(
            tree.get(file).is_some(),
            "{READ_AHEAD} names {file}, which is not in the root image; correct the list"
        );
    }
    Ok(())
}

/// Puts the version into the overlay's os-release.
fn name_version(tree: &mut Tree, version: &str) -> Result<()> {
    let path = "usr/lib/os-release";
    let text = tree.text(path)?;
    tree.insert(path, Node::file(0o644, text.replace("@VERSION@", version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_overlay_replaces_files_of_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let overlay = |name: &str, files: &[&str]| {
            let overlay = folder.path().join(name);
            for file in files {
                fs::create_dir_all(overlay.join(file).parent().unwrap()).unwrap();
                fs::write(overlay.join(file), name).unwrap();
            }
            overlay
        };
        let mut tree = Tree::default();
        lay_over(&mut tree, &overlay("a", &["README.md", "etc/x", "usr/y"])).unwrap();
        lay_over(&mut tree, &overlay("b", &["etc/x"])).unwrap();
        assert_eq!([tree.text("etc/x").unwrap(), tree.text("usr/y").unwrap()], ["b", "a"]);
        assert!(tree.get("README.md").is_none());
        let error = lay_over(&mut tree, &overlay("c", &["opt/z"])).unwrap_err().to_string();
        assert!(error.contains("a folder opt"), "{error}");
    }

    #[test]
    fn os_release_names_the_image_and_its_version() {
        let mut tree = Tree::default();
        tree.lay_over(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlay/usr/lib"), "usr/lib").unwrap();
        name_version(&mut tree, "1.4.0-rc.1").unwrap();
        let text = tree.text("usr/lib/os-release").unwrap();
        let lines = ["IMAGE_ID=ros", "IMAGE_VERSION=1.4.0-rc.1", "PRETTY_NAME=\"RancherOS 1.4.0-rc.1\""];
        for line in lines {
            assert!(text.lines().any(|of_text| of_text == line), "{line}");
        }
        assert!(!text.contains('@'), "{text}");
    }
}
