//! Processor and memory from procfs.

use crate::sysfs;
use protocol::hardware::Cpu;
use std::path::Path;

/// Limit in bytes. It is enough for a thousand processors with the longest descriptions in use.
const CPUINFO: u64 = 4 << 20;

pub fn probe(root: &Path) -> Cpu {
    let cpuinfo = sysfs::text(&root.join("proc/cpuinfo"), CPUINFO);
    let values = |key: &'static str| {
        cpuinfo.lines().filter_map(move |line| line.split_once(':').filter(|(k, _)| k.trim() == key)).map(|(_, v)| v)
    };
    Cpu {
        model: values("model name").next().map(sysfs::tidy).unwrap_or_default(),
        // The installer is built for the architecture that it runs on. These names are those of `uname -m`.
        architecture: std::env::consts::ARCH.to_owned(),
        threads: u32::try_from(values("processor").count()).unwrap_or(u32::MAX),
    }
}

/// `MemTotal` in bytes. 0 if the kernel does not report it.
pub fn memory_bytes(root: &Path) -> u64 {
    let meminfo = sysfs::text(&root.join("proc/meminfo"), sysfs::LINE);
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0);
    kib.saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.path().join("proc").join(name), text).unwrap();
        write(
            "cpuinfo",
            "processor\t: 0\nmodel name\t: QEMU  TCG CPU\n\nprocessor\t: 1\nmodel name\t: QEMU  TCG CPU\n",
        );
        write("meminfo", "MemTotal:         495616 kB\nMemFree: 1 kB\n");
        let cpu = probe(root.path());
        assert_eq!((cpu.model.as_str(), cpu.threads), ("QEMU TCG CPU", 2));
        assert_eq!(memory_bytes(root.path()), 495_616 * 1024);
        write("meminfo", "MemTotal: many kB\n");
        assert_eq!(memory_bytes(root.path()), 0);
    }
}
