//! The Debian archive, read through apt. apt gets a state folder of its own, so this machine's package lists do not
//! change. apt checks every package against the archive's signature.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::program::program;
use super::sbom::{self, Package};
use crate::cache::{Cache, Key};
use crate::progress;
use command::Command;
use release::digest;

/// The Debian release of the root images and of the operator's container image.
pub const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with `SUITE`, its updates and its security updates, from the mirrors that this machine uses.
pub struct Archive {
    /// One-line style sources.
    pub sources: Vec<String>,
    state: PathBuf,
}

/// A package that apt would download, as `apt-get --print-uris` lists it.
#[derive(Debug, PartialEq, Eq)]
struct Download {
    file: String,
    /// Algorithm and hex digest, such as `SHA256:00ff`.
    digest: String,
}

impl Archive {
    /// Fetches the package lists if there are none yet, or if `refresh` is set. `more`: components beside `main`.
    pub fn open(cache: &Cache, more: &[&str], refresh: bool) -> Result<Self> {
        ensure!(Path::new(KEYRING).exists(), "{KEYRING} is missing; install the package debian-archive-keyring");
        let sources = sources_of_this_machine(more)?;
        let state = cache.folder(&format!("archive/{}", &digest::of_bytes(sources.join("\n").as_bytes())[..16]))?;
        let archive = Self { sources, state };
        for folder in ["lists/partial", "archives/partial"] {
            let folder = archive.state.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        archive.write("sources.list", &(archive.sources.join("\n") + "\n"))?;
        archive.write("status", "")?;
        let stamp = archive.state.join("updated");
        if refresh || !stamp.exists() {
            progress::stage("downloading package lists", || Ok(archive.apt("apt-get").arg("update").run()?))?;
            archive.write("updated", "")?;
        }
        Ok(archive)
    }

    /// Adds the signed package lists to `key`. They identify the state of the archive.
    pub fn revision(&self, key: Key) -> Result<Key> {
        let lists = self.state.join("lists");
        let entries = fs::read_dir(&lists).with_context(|| format!("reading {}", lists.display()))?;
        let signed: BTreeSet<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().ends_with("InRelease"))
            .collect();
        ensure!(!signed.is_empty(), "{} contains no package lists; build with --refresh", lists.display());
        signed.iter().try_fold(key, |key, path| key.file("list", path))
    }

    /// The first package that the meta package `name` depends on.
    pub fn first_dependency(&self, name: &str) -> Result<String> {
        let shown = self.apt("apt-cache").args(["show", "--no-all-versions", name]).text()?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "));
        let first = depends.and_then(|list| list.split([' ', ',', '(']).next());
        Ok(first.with_context(|| format!("the package {name} has no dependency"))?.to_owned())
    }

    /// The packages of these names, as the archive has them.
    pub fn describe(&self, names: &[&str]) -> Result<Vec<Package>> {
        let shown = self.apt("apt-cache").args(["show", "--no-all-versions"]).args(names).text()?;
        Ok(shown.split("\n\n").filter_map(sbom::package).collect())
    }

    /// Unpacks `packages` into one folder, without their dependencies. No maintainer script runs.
    pub fn unpacked(&self, cache: &Cache, packages: &[&str]) -> Result<PathBuf> {
        let listed = self.apt("apt-get").args(["download", "--print-uris"]).args(packages).text()?;
        self.unpack(cache, packages, &parse_downloads(&listed), |folder| {
            self.apt("apt-get").current_dir(folder).arg("download").args(packages).run()?;
            Ok(())
        })
    }

    /// Like `unpacked`, with all dependencies of `packages`.
    pub fn unpacked_closure(&self, cache: &Cache, packages: &[&str]) -> Result<PathBuf> {
        let install = || self.apt("apt-get").args(["install", "--yes", "--no-install-recommends"]).args(packages);
        let downloads = parse_downloads(&install().arg("--print-uris").text()?);
        self.unpack(cache, packages, &downloads, |folder| {
            fs::create_dir(folder.join("partial")).context("creating apt's download folder")?;
            let archives = format!("Dir::Cache::archives={}", folder.display());
            install().args(["--download-only", "-o", &archives]).run()?;
            Ok(())
        })
    }

    fn unpack(
        &self,
        cache: &Cache,
        packages: &[&str],
        downloads: &[Download],
        fetch: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        ensure!(!downloads.is_empty(), "apt has no packages to download for {}", packages.join(" "));
        let key = downloads.iter().fold(Key::new(), |key, download| key.text(&download.file, &download.digest));
        cache.stage("packages", key, &format!("downloading {}", packages.join(" ")), |folder| {
            let fetched = tempfile::tempdir().context("creating a download folder")?;
            fetch(fetched.path())?;
            for download in downloads {
                program("dpkg-deb").arg("-x").arg(fetched.path().join(&download.file)).arg(folder).run()?;
            }
            Ok(())
        })
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.state.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
    }

    fn apt(&self, name: &str) -> Command {
        let state = self.state.display();
        let settings = [
            format!("Dir::State={state}"),
            format!("Dir::State::lists={state}/lists"),
            format!("Dir::State::status={state}/status"),
            format!("Dir::Cache={state}"),
            format!("Dir::Etc::SourceList={state}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            "APT::Get::AllowUnauthenticated=false".to_owned(),
            // The state folder belongs to the user who builds, not to apt's own user.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        settings.iter().fold(program(name).arg("-qq"), |command, setting| command.args(["-o", setting]))
    }
}

/// The mirrors of this machine's apt sources, with its own Debian release replaced by `SUITE`.
fn sources_of_this_machine(more: &[&str]) -> Result<Vec<String>> {
    let os_release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("finding this machine's release: /etc/os-release has no VERSION_CODENAME")?;
    let targets = program("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(RELEASE) $(LABEL)", "Created-By: Packages"])
        .text()?;
    let sources = sources(&targets, codename, more);
    ensure!(
        !sources.is_empty(),
        "the apt sources of this machine have no Debian archive for {codename}; add one and run `apt-get update`"
    );
    Ok(sources)
}

fn sources(targets: &str, codename: &str, more: &[&str]) -> Vec<String> {
    let components = [&["main"], more].concat().join(" ");
    let mut sources = BTreeSet::new();
    for line in targets.lines() {
        let [site, release, label] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        // Backports and archives of third parties have other labels.
        if !matches!(label, "Debian" | "Debian-Security") {
            continue;
        }
        let Some(pocket) = release.strip_prefix(codename).filter(|rest| rest.is_empty() || rest.starts_with('-'))
        else {
            continue;
        };
        sources.insert(format!("deb [signed-by={KEYRING}] {site} {SUITE}{pocket} {components}"));
    }
    sources.into_iter().collect()
}

/// Parses lines `'<uri>' <file> <size> <digest>`.
fn parse_downloads(listed: &str) -> Vec<Download> {
    listed
        .lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| {
            let mut words = line.rsplit(' ');
            let digest = words.next()?.to_owned();
            let _size = words.next()?;
            Some(Download { file: words.next()?.to_owned(), digest })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirrors_stay_and_the_release_changes() {
        let targets = "http://mirror.test/debian bookworm-backports Debian Backports\n\
                       http://mirror.test/debian bookworm Debian\n\
                       http://mirror.test/debian bookworm-updates Debian\n\
                       http://mirror.test/debian-security bookworm-security Debian-Security\n\
                       http://mirror.test/debian bookworm Debian\n\
                       https://other.test nodistro Node Source\n";
        let sources = sources(targets, "bookworm", &[]);
        let suites: Vec<_> = sources.iter().map(|line| line.split_once("] ").unwrap().1).collect();
        assert_eq!(
            suites,
            [
                "http://mirror.test/debian trixie main",
                "http://mirror.test/debian trixie-updates main",
                "http://mirror.test/debian-security trixie-security main",
            ]
        );
    }

    #[test]
    fn downloads_are_files_with_digests() {
        let listed = "NOTE: something\n'http://m.test/p/a_1%2b1_amd64.deb' a_1+1_amd64.deb 1496 SHA256:00ff\n";
        let expected = Download { file: "a_1+1_amd64.deb".into(), digest: "SHA256:00ff".into() };
        assert_eq!(parse_downloads(listed), [expected]);
    }
}
