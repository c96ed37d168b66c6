//! Builds a release, its ISO and its upgrade image from Debian packages or from another base. Each stage is cached under the digest of its inputs.

pub(crate) mod archive;
mod authorities;
mod base;
pub(crate) mod boot_files;
mod default_config;
mod firmware;
mod foreign;
mod initrd;
mod kernel;
mod lists;
mod module_list;
mod program;
pub mod release_folder;
mod root;
mod sbom;
mod signing;
pub(crate) mod tools;
pub mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::cache::{Cache, Key};
use crate::cli::{BuildOptions, Format, KernelChoice};
use crate::{format, progress, upgrade_image};
use archive::Archive;
use authorities::Authority;
use base::source::Source;
use boot_files::BootFiles;
use firmware::Firmware;
use kernel::Kernel;
use registry::RegistriesFile;
use release::signature::{KeyId, PublicKey};
use release::{MANIFEST, ReleaseManifest, digest};
use release_folder::{Parts, kernel_arguments};
use root::RootInputs;
use signing::Signing;
use tools::Tools;
use tree::Tree;

/// The result of a build, printed with `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    version: String,
    volume_id: String,
    #[serde(flatten)]
    media: Media,
    release: PathBuf,
    signed_by: Vec<KeyId>,
    root_bytes: u64,
    kernel_bytes: u64,
    initrd_bytes: u64,
}

/// What was made of a release.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Media {
    #[serde(skip_serializing_if = "Option::is_none")]
    iso: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iso_bytes: Option<u64>,
    /// The folder with the files of a network boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<PathBuf>,
    #[serde(flatten)]
    upgrade: Option<upgrade_image::Written>,
    disk_images: Vec<PathBuf>,
}

pub fn run(options: &BuildOptions) -> Result<()> {
    check(options)?;
    let authorities = authorities::read(&options.ca)?;
    let cloud_config = options.cloud_config.as_deref().map(default_config::read).transpose()?;
    let signing = Signing::read(&options.sign, &options.release_key)?;
    let version = options.release_version.as_str();
    let source = options.base.as_deref().map(Source::find).transpose()?;
    let registries = options.registries.as_deref().map(RegistriesFile::read).transpose()?.unwrap_or_default();
    let cache = Cache::open(options.cache.as_deref())?;
    let components: &[&str] = if options.firmware.is_empty() { &[] } else { &[firmware::COMPONENT] };
    let archive = Archive::open(&cache, components, options.refresh)?;
    let base = match &source {
        Some(source) => base::prepare(&cache, source, &registries.with_plain_http(options.plain_http), options.epoch)?,
        None => base::recipe::prepare(&cache, &archive, &options.package, options.epoch)?,
    };
    let base = base::hook::run(&cache, &base, &options.hook, options.epoch)?;
    let tree = Tree::from_tar(&base)?;
    let name = source.as_ref().map_or("Debian packages".to_owned(), Source::to_string);
    base::needs::check(&tree, &options.installer).with_context(|| format!("the base {name} cannot be used"))?;
    let tools = Tools::prepare(&cache, &archive)?;
    let choice = options.kernel.clone();
    let choice = choice.unwrap_or(if source.is_some() { KernelChoice::OfBase } else { KernelChoice::Cloud });
    let kernel = Kernel::prepare(&cache, &archive, &tools, &choice, (&tree, &base))?;
    let boot = BootFiles::prepare(&cache, &archive, &tools)?;
    let firmware = Firmware::prepare(&cache, &archive, &options.firmware)?;

    let additions = Additions {
        signing: &signing,
        authorities: &authorities,
        cloud_config: cloud_config.as_deref(),
        firmware: firmware.as_ref(),
    };
    let root = root_image(options, &additions, &cache, &tools, &kernel, (&tree, &base))?;
    let initrd_key = Key::new()
        .this_program()?
        .result("kernel", &kernel.root)
        .file("init", &options.init)?
        .text("epoch", options.epoch.to_string());
    let initrd = cache.stage("initrd", initrd_key, "packing the initrd", |folder| {
        initrd::write(&kernel, &options.init, options.epoch, &folder.join("initrd"))
    })?;

    let folder = options.output.join("release");
    fs::create_dir_all(folder.join("boot")).with_context(|| format!("creating {}", folder.display()))?;
    boot.write_disk_files(&tools, &folder.join("boot"))?;
    let verity = root::read_verity(&root)?;
    let manifest = progress::stage("writing the release", || {
        let parts = Parts {
            version,
            minimum_version: options.minimum_version.clone(),
            root: &root.join("root.erofs"),
            verity,
            kernel: &kernel.image(),
            initrd: &initrd.join("initrd"),
            initrd_modules: initrd::modules(&kernel)?.names(),
            kernel_arguments: kernel_arguments(&options.console, &options.kernel_argument),
            menu: options.boot_menu.as_deref(),
        };
        release_folder::write(&folder, parts)
    })?;
    let mut packages = sbom::of_base(&tree)?;
    packages.extend(archive.describe(&boot_files::RELEASED)?);
    packages.extend(kernel.package.clone());
    packages.extend(firmware.into_iter().flat_map(|firmware| firmware.packages));
    let (digest, _) = digest::of_file(&folder.join(MANIFEST)).context("reading the release's manifest")?;
    sbom::write(&folder, &manifest, &digest, packages, &["ros-init", "ros-installer"], options.epoch)?;
    let signed_by = signing.sign(&folder)?;
    let media = media(options, &folder, &manifest, &boot, &tools)?;

    report(
        options.json,
        &Built {
            version: version.to_owned(),
            volume_id: format::iso::volume_id(&folder)?,
            media,
            release: folder,
            signed_by,
            root_bytes: manifest.root.size,
            kernel_bytes: manifest.kernel.size,
            initrd_bytes: manifest.initrd.size,
        },
    )
}

/// Makes what the options ask for of the release in `folder`.
fn media(
    options: &BuildOptions,
    folder: &Path,
    manifest: &ReleaseManifest,
    boot: &BootFiles,
    tools: &Tools,
) -> Result<Media> {
    let mut media = Media::default();
    let (output, epoch) = (&options.output, options.epoch);
    let wants = |format| options.formats.contains(&format);
    let medium = |ending: &str| output.join(format!("ros-{}-{}.{ending}", manifest.version, manifest.architecture));
    if wants(Format::Iso) || wants(Format::Pxe) {
        let temporary = tempfile::tempdir_in(output).with_context(|| format!("using {}", output.display()))?;
        let iso = if wants(Format::Iso) { medium("iso") } else { temporary.path().join("iso") };
        progress::stage("writing the ISO", || format::iso::write(folder, manifest, boot, tools, epoch, &iso))?;
        if wants(Format::Pxe) {
            let network = output.join("pxe");
            progress::stage("writing the files of a network boot", || format::network::write(&iso, &network))?;
            media.network = Some(network);
        }
        if wants(Format::Iso) {
            media.iso_bytes = Some(iso.metadata().with_context(|| format!("inspecting {}", iso.display()))?.len());
            media.iso = Some(iso);
        }
    }
    if wants(Format::Oci) {
        media.upgrade = Some(progress::stage("writing the upgrade image", || {
            upgrade_image::write(folder, manifest, &options.container_installer, epoch, output)
        })?);
    }
    let images: Vec<(Format, PathBuf)> =
        options.formats.iter().filter_map(|format| Some((*format, medium(format.disk_image()?)))).collect();
    format::disk::write(folder, options.disk_size, epoch, &images)?;
    media.disk_images = images.into_iter().map(|(_, path)| path).collect();
    Ok(media)
}

/// Checks the options before the first long stage.
fn check(options: &BuildOptions) -> Result<()> {
    let version = &options.release_version;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
    ensure!(
        !version.is_empty() && version.len() <= 64 && version.bytes().all(plain),
        "--version {version:?}: use up to 64 letters, digits, `.`, `-`, `_`, `+`; it becomes part of file names"
    );
    let programs = [
        ("--installer", &options.installer),
        ("--init", &options.init),
        ("--container-installer", &options.container_installer),
    ];
    for (option, path) in programs {
        ensure!(path.is_file(), "{option} {}: no such file; build it with cargo first", path.display());
    }
    if let Some(minimum) = &options.minimum_version {
        ensure!(
            minimum.admits(version).is_ok(),
            "--minimum-version {minimum} would forbid this release itself: --version {version} is older, or not of the \
             form 1.4.0"
        );
    }
    for hook in &options.hook {
        ensure!(hook.is_file(), "--hook {}: no such file", hook.display());
    }
    if options.kernel == Some(KernelChoice::OfBase) {
        ensure!(options.base.is_some(), "--kernel base: there is no BASE; name one, or take --kernel cloud or generic");
    }
    for overlay in &options.overlay {
        ensure!(overlay.is_dir(), "--overlay {}: no such folder", overlay.display());
    }
    Ok(())
}

/// What the builder of an image adds to it.
struct Additions<'a> {
    signing: &'a Signing,
    authorities: &'a [Authority],
    cloud_config: Option<&'a str>,
    firmware: Option<&'a Firmware>,
}

fn root_image(
    options: &BuildOptions,
    additions: &Additions,
    cache: &Cache,
    tools: &Tools,
    kernel: &Kernel,
    (tree, base): (&Tree, &Path),
) -> Result<PathBuf> {
    let mut overlay = Tree::default();
    for folder in &options.overlay {
        overlay.lay_over(folder, "")?;
    }
    let mut overlay_digest = digest::Writer::default();
    overlay.write_tar(&mut overlay_digest, options.epoch).context("reading the overlay")?;
    let key = Key::new()
        .this_program()?
        .result("base", base.parent().unwrap_or(base))
        .result("kernel", &kernel.root)
        .result("tools", tools.root())
        .text("overlay", overlay_digest.finish())
        .text("is foreign", options.base.is_some().to_string())
        .file("installer", &options.installer)?
        .text("version", &options.release_version);
    let key = additions.firmware.iter().fold(key, |key, firmware| key.result("firmware", &firmware.root));
    let key = key
        .text("release keys", additions.signing.trusted().iter().map(PublicKey::to_pem).collect::<String>())
        .text("authorities", additions.authorities.iter().map(|authority| authority.pem.as_str()).collect::<String>())
        .text("cloud-config", additions.cloud_config.unwrap_or_default())
        .text("epoch", options.epoch.to_string());
    let inputs = RootInputs {
        base: tree,
        is_foreign: options.base.is_some(),
        overlays: &options.overlay,
        installer: &options.installer,
        kernel,
        firmware: additions.firmware,
        version: &options.release_version,
        release_keys: additions.signing.trusted(),
        authorities: additions.authorities,
        cloud_config: additions.cloud_config,
        epoch: options.epoch,
    };
    cache.stage("root", key, "compressing the root image", |folder| root::write(&inputs, tools, folder))
}

fn report(json: bool, built: &Built) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(built)?);
        return Ok(());
    }
    let size = progress::megabytes;
    println!(
        "release {}, volume {}: root {}, kernel {}, initrd {}; {}",
        built.version,
        built.volume_id,
        size(built.root_bytes),
        size(built.kernel_bytes),
        size(built.initrd_bytes),
        signed_by(&built.signed_by)
    );
    let media = &built.media;
    if let (Some(iso), Some(bytes)) = (&media.iso, media.iso_bytes) {
        println!("{} ({})", iso.display(), size(bytes));
    }
    if let Some(network) = &media.network {
        println!("{}/: network boot", network.display());
    }
    if let Some(upgrade) = &media.upgrade {
        println!("{} ({}, {})", upgrade.image.display(), size(upgrade.image_bytes), upgrade.image_digest);
    }
    media.disk_images.iter().for_each(|image| println!("{}", image.display()));
    Ok(())
}

/// Says by which keys a release is signed.
pub(crate) fn signed_by(ids: &[KeyId]) -> String {
    let ids: Vec<String> = ids.iter().map(KeyId::to_string).collect();
    if ids.is_empty() { "not signed".to_owned() } else { format!("signed by {}", ids.join(", ")) }
}
