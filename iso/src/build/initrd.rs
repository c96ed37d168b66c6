//! The initrd: ros-init and the kernel modules it may need, as a zstd-compressed cpio archive.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use flate2::read::GzDecoder;
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

/// The content of a module file, decompressed as its ending says. The module's signature is inside the compressed data.
fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let (mut file, mut content) = (BufReader::new(file), Vec::new());
    let read = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => lzma_rs::xz_decompress(&mut file, &mut content).map_err(|e| anyhow!("{e:?}")),
        Some("zst") => zstd::stream::copy_decode(file, &mut content).map_err(Into::into),
        Some("gz") => GzDecoder::new(file).read_to_end(&mut content).map(drop).map_err(Into::into),
        _ => file.read_to_end(&mut content).map(drop).map_err(Into::into),
    };
    read.with_context(|| format!("reading {}", path.display()))?;
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

    #[test]
    fn modules_are_read_however_they_are_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let content = b"a module".repeat(100);
        let (mut xz, mut gzip) = (Vec::new(), Vec::new());
        lzma_rs::xz_compress(&mut content.as_slice(), &mut xz).unwrap();
        flate2::read::GzEncoder::new(content.as_slice(), flate2::Compression::fast()).read_to_end(&mut gzip).unwrap();
        let zstd = zstd::encode_all(content.as_slice(), 1).unwrap();
        for (name, bytes) in [("a.ko", &content), ("a.ko.xz", &xz), ("a.ko.gz", &gzip), ("a.ko.zst", &zstd)] {
            fs::write(folder.path().join(name), bytes).unwrap();
            assert_eq!(decompressed(&folder.path().join(name)).unwrap(), content, "{name}");
        }
    }

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
