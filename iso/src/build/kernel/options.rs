//! What a kernel must be able to do, by its configuration.

use anyhow::{Result, ensure};

use crate::build::lists;

const OPTIONS: &str = include_str!("../lists/kernel-options.txt");

/// Fails with the names of the options that the kernel lacks. `config`: its configuration, as in /boot/config-VERSION.
pub fn check(version: &str, config: &str) -> Result<()> {
    let has = |option: &&str| {
        let value = config.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
        matches!(value, Some("y" | "m"))
    };
    let missing: Vec<&str> = lists::lines(OPTIONS).filter(|option| !has(option)).collect();
    ensure!(
        missing.is_empty(),
        "the kernel {version} lacks {}; take Debian's kernel since 6.12 (--kernel cloud), or one that has them",
        missing.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let all: String = lists::lines(OPTIONS).map(|option| format!("{option}=m\n")).collect();
        check("6.12", &all).unwrap();
        let old = all.replace("CONFIG_EROFS_FS=m\n", "# CONFIG_EROFS_FS is not set\n");
        let error = check("6.1.0", &old.replace("CONFIG_RD_ZSTD=m", "CONFIG_RD_ZSTD=n")).unwrap_err().to_string();
        assert!(error.contains("6.1.0 lacks CONFIG_EROFS_FS, CONFIG_RD_ZSTD;"), "{error}");
    }
}
