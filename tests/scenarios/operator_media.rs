//! Media that the operator hands out with a registration in them. They equal the output of `ros-image customize` for
//! the same base medium, downloaded whole or in parts.

use crate::customize::tiny_disk_image;
use anyhow::{Context, Result, ensure};
use harness::world::{MEDIA_NOTICED, World};
use iso::cli::Format;
use qemu::paths;
use qemu::process::printed;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[tokio::test(flavor = "multi_thread")]
async fn a_medium_downloaded_in_parts_is_the_one_that_customize_makes() {
    let downloads = Downloads::start("media-parts", synthetic).await.unwrap();
    let downloaded = downloads.are_what_customize_makes().await.unwrap();

    let shown =
        downloads.run(Command::new(paths::program("ros-image").unwrap()).arg("show").arg(&downloaded).arg("--json"));
    let shown: Value = serde_json::from_str(&shown.unwrap()).unwrap();
    let url = shown["registration"]["rancheros"]["install"]["registrationURL"].as_str().unwrap();
    assert!(downloads.world.registration().url.starts_with(url.trim_end_matches("***")), "{url}");
    assert_eq!(shown["release"]["version"], "0.1.0");

    let log = downloads.world.operator_log().unwrap();
    let (_, token) = downloads.world.registration().url.rsplit_once('/').unwrap();
    assert!(log.contains("sending a medium") && !log.contains(token), "{log}");
    let metrics = downloads.world.operator.metrics().await.unwrap();
    assert!(metrics.contains(r#"rancheros_exchanges_total{request="media",result="ok",code=""}"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_image_downloaded_in_parts_is_the_one_that_customize_makes() {
    let downloads =
        Downloads::start("disk-image-parts", |folder| tiny_disk_image(folder, Format::Qcow2)).await.unwrap();
    let downloaded = downloads.are_what_customize_makes().await.unwrap();
    downloads.run(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&downloaded)).unwrap();
    let mut show = Command::new(paths::program("ros-image").unwrap());
    let shown = downloads.run(show.arg("show").arg(&downloaded).arg("--json")).unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["version"], &shown["diskBytes"]), (&json!("0.1.0"), &json!(2u64 << 30)));
    let url = shown["registration"]["rancheros"]["install"]["registrationURL"].as_str().unwrap();
    assert!(downloads.world.registration().url.starts_with(url.trim_end_matches("***")), "{url}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_base_medium_has_another_tag_and_one_that_is_gone_is_listed_no_more() {
    let downloads = Downloads::start("media-changes", synthetic).await.unwrap();
    let base = downloads.base.clone();
    let url = downloads.world.media_url("synthetic.iso").await.unwrap();
    let before = downloads.headers(&url).unwrap();
    assert!(before.contains("HTTP/1.1 200") && before.contains("etag: \""), "{before}");

    // Another release replaces the first one by a rename, as `mv` does it.
    let other = downloads.world.path().join("other.iso");
    let mut content = fs::read(&base).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&other, content).unwrap();
    fs::rename(&other, downloads.media.join("synthetic.iso")).unwrap();
    fs::copy(&base, downloads.media.join("second.iso")).unwrap();
    downloads.world.media_url("second.iso").await.unwrap();
    assert_eq!(downloads.world.media_url("synthetic.iso").await.unwrap(), url, "its address stays");
    let after = downloads.headers(&url).unwrap();
    let tag = |headers: &str| headers.lines().find(|line| line.starts_with("etag:")).unwrap().to_owned();
    assert_ne!(tag(&before), tag(&after));

    for name in ["synthetic.iso", "second.iso"] {
        fs::remove_file(downloads.media.join(name)).unwrap();
    }
    until("no media in the status", MEDIA_NOTICED, async || {
        let listed = downloads.world.listed_media()?;
        Ok(if listed.is_null() { Poll::Ready(()) } else { Poll::Pending(listed.to_string()) })
    })
    .await
    .unwrap();
    assert!(downloads.headers(&url).unwrap().contains("HTTP/1.1 404"));
}

/// A world whose operator hands out media.
struct Downloads {
    world: World,
    /// The first base medium.
    base: PathBuf,
    /// The operator's folder of base media.
    media: PathBuf,
    /// Holds the operator's authority and the downloads.
    folder: PathBuf,
}

impl Downloads {
    /// Starts a world with one base medium. `make` gets an empty folder and gives the path of the medium.
    async fn start(name: &str, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<Self> {
        let builder = World::builder(name)?.registration(json!({}));
        let base = make(&builder.folder("base")?)?;
        let media = builder.folder("media")?;
        fs::copy(&base, media.join(base.file_name().unwrap_or_default())).context("copying the base medium")?;
        let world = builder.setting("ROS_MEDIA", media.to_str().context("the folder's name")?).start().await?;
        let folder = world.folder("downloads")?;
        fs::write(folder.join("ca.pem"), world.operator.ca().await?).context("writing the operator's authority")?;
        Ok(Self { world, base, media, folder })
    }

    /// Downloads the only medium, interrupted once and resumed by `curl -C -`, and compares it with what
    /// `ros-image customize` makes. Gives the download.
    async fn are_what_customize_makes(&self) -> Result<PathBuf> {
        let entry = fs::read_dir(&self.media)?.next().context("no base medium")??;
        let url = self.world.media_url(&entry.file_name().to_string_lossy()).await?;
        let settings = self.folder.join("registration.yaml");
        fs::write(&settings, self.world.operator.fetch(&self.world.url()?).await?)?;
        let expected = self.folder.join("customized.iso");
        let mut customize = Command::new(paths::program("ros-image")?);
        customize.arg("customize").arg(entry.path()).arg("--registration").arg(&settings).arg("--output");
        self.run(customize.arg(&expected))?;
        let expected = fs::read(&expected)?;

        // The second part begins within the settings.
        let downloaded = self.folder.join("downloaded.iso");
        let registration = b"registrationURL";
        let space = expected.windows(registration.len()).position(|window| window == registration);
        let middle = space.context("no settings in what customize made")? + 5;
        self.download(&["--range", &format!("0-{}", middle - 1)], &downloaded, &url)?;
        ensure!(fs::metadata(&downloaded)?.len() == middle as u64, "another length than was asked for");
        self.download(&["--continue-at", "-"], &downloaded, &url)?;
        ensure!(fs::read(&downloaded)? == expected, "the download is not what customize makes");
        let whole = self.folder.join("whole.iso");
        self.download(&[], &whole, &url)?;
        ensure!(fs::read(&whole)? == expected, "the download in one piece is not what customize makes");
        Ok(downloaded)
    }

    /// The headers of the answer to a HEAD request.
    fn headers(&self, url: &str) -> Result<String> {
        self.run(self.curl().args(["--head", url]))
    }

    fn download(&self, options: &[&str], output: &Path, url: &str) -> Result<String> {
        self.run(self.curl().args(options).args(["--fail", url, "--output"]).arg(output))
    }

    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(self.folder.join("ca.pem"));
        curl
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let output: Output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
        ensure!(output.status.success(), "{:?}: {}", command.get_program(), printed(&output));
        String::from_utf8(output.stdout).context("reading what it printed")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn iso_from_the_operator_is_the_one_that_customize_makes() {
    let downloads = Downloads::start("medium-streamed", |_| paths::iso()).await.unwrap();
    let downloaded = downloads.are_what_customize_makes().await.unwrap();
    let ros_image = |verb: &str| {
        let mut ros_image = Command::new(paths::program("ros-image").unwrap());
        ros_image.arg(verb).arg(&downloaded);
        ros_image
    };
    downloads.run(&mut ros_image("verify")).unwrap();
    let shown: Value = serde_json::from_str(&downloads.run(ros_image("show").arg("--json")).unwrap()).unwrap();
    let url = shown["registration"]["rancheros"]["install"]["registrationURL"].as_str().unwrap();
    assert!(url.ends_with("/v1-rancheros/registration/***"), "{url}");
}

/// A medium with a manifest, a reserved space and nothing to boot.
fn synthetic(folder: &Path) -> Result<PathBuf> {
    let content = folder.join("content");
    fs::create_dir_all(content.join("release"))?;
    let manifest = paths::workspace().join("crates/release/testdata/release.json");
    fs::copy(manifest, content.join("release/release.json"))?;
    fs::write(content.join("registration.yaml"), "\n".repeat(64 << 10))?;
    let filler: Vec<u8> = (0..600_000u32).map(|at| (at / 251) as u8).collect();
    fs::write(content.join("release/root.erofs"), filler)?;
    let iso = folder.join("synthetic.iso");
    let made = Command::new("xorriso").args(["-as", "mkisofs", "-quiet", "-r", "-o"]).args([&iso, &content]).output();
    let made = made.context("starting xorriso")?;
    ensure!(made.status.success(), "xorriso: {}", printed(&made));
    Ok(iso)
}
