//! The initrd: ros-init and the kernel modules it may need, as a zstd-compressed cpio archive.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use media::initrd_archive::{ALIGNMENT, Archive};

use super::kernel::Kernel;
use super::module_list::{ModuleIndex, ModulePlan};

const MODULES: &str = include_str!("lists/initrd-modules.txt");
/// The archive is small. The highest level costs one second here and saves reading time at each boot.
const ZSTD_LEVEL: i32 = 19;

/// The modules that an initrd of `kernel` has.
pub fn modules(kernel: &Kernel) -> Result<ModulePlan> {
    ModuleIndex::read(&kernel.modules())?.plan(MODULES).context("choosing the modules of the initrd")
}

/// Writes the initrd of `kernel` with the program `init` to `output`.
pub fn write(kernel: &Kernel, init: &Path, epoch: u32, output: &Path) -> Result<()> {
    let modules = kernel.modules();
    let plan = self::modules(kernel)?;
    let file = File::create(output).with_context(|| format!("creating {}", output.display()))?;
    let compressed = zstd::Encoder::new(file, ZSTD_LEVEL).context("starting compression")?;
    let mut archive = Archive::new(compressed, epoch);
    let archiving = |name: &str| format!("archiving {name}");
    for folder in ["dev", "modules", "newroot", "proc", "run", "sys"] {
        archive.folder(folder).with_context(|| archiving(folder))?;
    }
    let mut put = |name: &str, mode: u32, content: &[u8]| {
        archive.file(name, mode, content.len() as u64, content).with_context(|| archiving(name))
    };
    put("init", 0o755, &fs::read(init).with_context(|| format!("reading {}", init.display()))?)?;
    put("modules/always", 0o644, plan.always.as_bytes())?;
    put("modules/by-alias", 0o644, plan.by_alias.as_bytes())?;
    put("modules/watchdog-by-alias", 0o644, plan.watchdog_by_alias.as_bytes())?;
    put("modules/no-watchdog", 0o644, plan.no_watchdog.as_bytes())?;
    for (name, source) in &plan.sources {
        put(&format!("modules/{name}"), 0o644, &decompressed(&modules.join(source))?)?;
    }
    archive
        .finish()
        .and_then(zstd::Encoder::finish)
        .and_then(|file| pad(&file))
        .with_context(|| format!("writing {}", output.display()))
}

/// The content of a module file, decompressed if it ends in `.xz`. The module's signature is inside the compressed
/// data.
fn decompressed(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("reading {}", path.display()));
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut content = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(file), &mut content)
        .map_err(|e| anyhow::anyhow!("decompressing {}: {e:?}", path.display()))?;
    Ok(content)
}

/// Another archive may follow, and not every boot loader aligns it.
fn pad(file: &File) -> io::Result<()> {
    file.set_len(file.metadata()?.len().next_multiple_of(ALIGNMENT))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loaded software watchdog would be the first one, and systemd would not use the hardware's.
    #[test]
    fn the_software_watchdog_is_only_for_machines_without_another() {
        let kinds = |module: &str| -> Vec<&str> {
            let lines = super::super::lists::lines(MODULES).filter_map(|line| line.split_once(char::is_whitespace));
            lines.filter(|(_, name)| name.trim() == module).map(|(kind, _)| kind).collect()
        };
        assert_eq!(kinds("softdog"), ["no-watchdog?"]);
        for module in ["i6300esb", "wdat_wdt", "iTCO_wdt", "sp5100_tco", "hpwdt"] {
            assert_eq!(kinds(module), ["watchdog?"], "{module}");
        }
    }
}
