//! Programs that the builder of an image runs in the tree of a base, as its root. mmdebstrap unpacks the tree in a user
//! namespace, and mounts /dev, /proc and /sys, so that this needs no privileges.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::program::program;
use crate::cache::{Cache, Key};

/// Runs in a shell of mmdebstrap with the tree as `$1` and the program as `$HOOK`.
const RUN: &str =
    "cp \"$HOOK\" \"$1/.ros-hook\" && chmod 755 \"$1/.ros-hook\" && chroot \"$1\" /.ros-hook && rm \"$1/.ros-hook\"";
/// Fills the tree with the base, after mmdebstrap has put files for apt into it. The base's own take their place.
const UNPACK: &str = "rm -rf \"$1/etc/apt\" && tar --extract --xattrs --xattrs-include='*' --exclude='./dev/*' \
                      --exclude='dev/*' --file \"$BASE\" -C \"$1\"";
/// What mmdebstrap puts into a tree for programs that need the network, and its own settings, whose name is random.
const CLEAN_UP: &str = "rm -f \"$1/etc/resolv.conf\" \"$1/etc/hostname\" \"$1\"/tmp/mmdebstrap.*";

/// The archive of the base after the hooks have run in it, one after the other. A hook runs again when it or the base has
/// changed.
pub fn run(cache: &Cache, base: &Path, hooks: &[PathBuf], epoch: u32) -> Result<PathBuf> {
    let mut base = base.to_owned();
    for hook in hooks {
        // It runs in another folder.
        let hook = &hook.canonicalize().with_context(|| format!("finding the hook {}", hook.display()))?;
        let key = Key::new()
            .result("base", base.parent().unwrap_or(&base))
            .file("hook", hook)?
            .text("steps", [UNPACK, RUN, CLEAN_UP].join("\n"))
            .text("epoch", epoch.to_string());
        let what = format!("running --hook {}", hook.display());
        let folder = cache.stage("base", key, &what, |folder| {
            program("mmdebstrap")
                .env("SOURCE_DATE_EPOCH", epoch.to_string())
                .env("HOOK", hook)
                .env("BASE", &base)
                .args(["--mode=unshare", "--variant=custom", "--format=tar", "--skip=update,cleanup"])
                .args([format!("--setup-hook={UNPACK}"), format!("--customize-hook={RUN}")])
                .args([format!("--customize-hook={CLEAN_UP}"), String::new()])
                .arg(folder.join("base.tar"))
                .run()?;
            Ok(())
        })?;
        base = folder.join("base.tar");
    }
    Ok(base)
}
