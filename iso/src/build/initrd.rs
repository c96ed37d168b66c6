//! The initrd: ros-init and the kernel modules it may need, as a zstd-compressed cpio archive ("newc", the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

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
    let mut archive = Archive { writer: compressed, epoch, inode: 0 };
    for folder in ["dev", "modules", "newroot", "proc", "run", "sys"] {
        archive.folder(folder)?;
    }
    archive.file("init", 0o755, &fs::read(init).with_context(|| format!("reading {}", init.display()))?)?;
    archive.file("modules/always", 0o644, plan.always.as_bytes())?;
    archive.file("modules/by-alias", 0o644, plan.by_alias.as_bytes())?;
    archive.file("modules/watchdog-by-alias", 0o644, plan.watchdog_by_alias.as_bytes())?;
    archive.file("modules/no-watchdog", 0o644, plan.no_watchdog.as_bytes())?;
    for (name, source) in &plan.sources {
        archive.file(&format!("modules/{name}"), 0o644, &decompressed(&modules.join(source))?)?;
    }
    archive
        .finish()
        .and_then(zstd::Encoder::finish)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("writing {}", output.display()))
}

struct Archive<W: Write> {
    writer: W,
    epoch: u32,
    inode: u32,
}

impl<W: Write> Archive<W> {
    fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, ModeFileType::Directory, 0o755, &[])
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(name, ModeFileType::Regular, mode, content)
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too big for a cpio archive"))?;
        let builder = Builder::new(name).ino(self.inode).mtime(self.epoch).mode(mode).set_mode_file_type(kind);
        let mut entry = builder.write(&mut self.writer, size);
        entry.write_all(content).and_then(|()| entry.finish()).with_context(|| format!("archiving {name}"))?;
        Ok(())
    }

    fn finish(self) -> io::Result<W> {
        trailer(self.writer)
    }
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use cpio::newc::Reader;

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

    #[test]
    fn the_archive_has_types_modes_and_content() {
        let mut archive = Archive { writer: Vec::new(), epoch: 7, inode: 0 };
        archive.folder("dev").unwrap();
        archive.file("init", 0o755, b"program").unwrap();
        let bytes = archive.finish().unwrap();
        let folder = Reader::new(bytes.as_slice()).unwrap();
        assert_eq!((folder.entry().name(), folder.entry().mode(), folder.entry().mtime()), ("dev", 0o040_755, 7));
        let mut file = Reader::new(folder.finish().unwrap()).unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!((file.entry().name(), file.entry().mode(), content.as_str()), ("init", 0o100_755, "program"));
        assert!(Reader::new(file.finish().unwrap()).unwrap().entry().is_trailer());
    }
}
