//! Our own base system: Debian packages in a tar archive, without a kernel.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use crate::build::archive::{Archive, SUITE};
use crate::build::lists;
use crate::build::program::program;
use crate::cache::{Cache, Key};
use crate::cli::PackageName;

/// The packages that are installed in addition to Debian's essential ones.
const PACKAGES: &str = include_str!("../lists/packages.txt");
/// Paths that dpkg does not unpack.
const EXCLUDED: &str = include_str!("../lists/dpkg-exclude.txt");

/// Removes files with random content or with data of the build machine: host keys, the host name, name servers,
/// addresses of mirrors. systemd fills in the empty machine-id at the first boot, without applying its first-boot
/// presets.
const CLEAN_UP: &str = "cd \"$1\" && rm -rf etc/hostname etc/resolv.conf etc/machine-id etc/apt/sources.list* \
                        etc/ssh/ssh_host_* && : > etc/machine-id";

/// Builds the archive `base.tar` with `more` packages. Needs no privileges where the host allows user namespaces.
pub fn prepare(cache: &Cache, archive: &Archive, more: &[PackageName], epoch: u32) -> Result<PathBuf> {
    let packages = packages(more);
    let mut arguments = vec![
        "--mode=unshare".to_owned(),
        "--variant=essential".to_owned(),
        "--format=tar".to_owned(),
        format!("--include={}", packages.join(",")),
        "--aptopt=Acquire::Languages \"none\"".to_owned(),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
        format!("--customize-hook={CLEAN_UP}"),
    ];
    arguments.extend(lists::lines(EXCLUDED).map(|line| format!("--dpkgopt={line}")));
    let key = archive.revision(arguments.iter().fold(Key::new(), |key, argument| key.text("argument", argument)))?;
    let key = key.text("epoch", epoch.to_string());
    let what = format!("installing {} packages of {SUITE} and what they need (about two minutes)", packages.len());
    let folder = cache.stage("base", key, &what, |folder| {
        program("mmdebstrap")
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .args(&arguments)
            .arg(SUITE)
            .arg(folder.join("base.tar"))
            .args(&archive.sources)
            .run()?;
        Ok(())
    })?;
    Ok(folder.join("base.tar"))
}

/// The packages of every release, then the others by name, so that their order on the command line changes nothing.
fn packages(more: &[PackageName]) -> Vec<&str> {
    let own: Vec<_> = lists::lines(PACKAGES).collect();
    let more: BTreeSet<_> = more.iter().map(PackageName::as_str).filter(|name| !own.contains(name)).collect();
    own.into_iter().chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_packages_come_after_the_others_once_and_by_name() {
        let more = ["runc", "systemd", "containerd", "runc"].map(|name| name.parse().unwrap());
        let (all, own) = (packages(&more), packages(&[]));
        assert_eq!(all[..own.len()], own);
        assert_eq!(all[own.len()..], ["containerd", "runc"]);
    }
}
