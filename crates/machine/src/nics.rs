//! Hardware network interfaces, from sysfs.

use crate::sysfs;
use protocol::hardware::Nic;
use std::path::Path;

/// All interfaces with a device behind them: no loopback, bridges or tunnels.
pub fn probe(root: &Path) -> Vec<Nic> {
    let class = root.join("sys/class/net");
    let names = sysfs::names(&class).into_iter().filter(|name| class.join(name).join("device").exists());
    names
        .map(|name| {
            let folder = class.join(&name);
            let driver = std::fs::read_link(folder.join("device/driver")).unwrap_or_default();
            Nic {
                mac: sysfs::tidy(&sysfs::text(&folder.join("address"), sysfs::LINE)),
                driver: driver.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                link: sysfs::flag(&folder.join("carrier")),
                name,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn hardware_interfaces_are_listed_and_others_are_not() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("sys/class/net");
        create_dir_all(class.join("ens3/device")).unwrap();
        symlink("../../../bus/virtio/drivers/virtio_net", class.join("ens3/device/driver")).unwrap();
        write(class.join("ens3/address"), "52:54:00:12:34:56\n").unwrap();
        write(class.join("ens3/carrier"), "1\n").unwrap();
        create_dir_all(class.join("lo")).unwrap();
        let nics = probe(root.path());
        let expected =
            Nic { name: "ens3".into(), mac: "52:54:00:12:34:56".into(), driver: "virtio_net".into(), link: true };
        assert_eq!(nics, [expected]);
    }
}
