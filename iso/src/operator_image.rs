//! The operator's container image. Its one layer has the program, the libraries that it is linked to, and the
//! certificates of public authorities and of TPM vendors. The user of the container cannot change it. It has no shell
//! and no package manager.
//!
//! The libraries are from the Debian release of the root images. With a statically linked C library, as in ros-init,
//! every dependency would have to be compiled a second time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::build::archive::Archive;
use crate::build::tree::{Node, Tree};
use crate::cache::Cache;
use crate::cli::OperatorOptions;
use crate::oci::{self, Image, Layer};
use crate::progress;

/// The packages that are unpacked, without their dependencies: certificates are data, and the libraries need only each
/// other. The last one is a Ruby library. Only its root certificates of TPM vendors are taken (Apache-2.0).
const PACKAGES: &[&str] = &["ca-certificates", "libc6", "libgcc-s1", "ruby-tpm-key-attestation"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// The libraries that the program is linked to, and those that the C library loads to look up names.
const LINKED: &[&str] =
    &["ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libm.so.6", "libnss_dns.so.2", "libnss_files.so.2"];
/// Debian's package has the root certificates of TPM vendors in `<GEMS>/<GEM><version>/<GEM_CERTIFICATES>`. The
/// container image has them in `TPM_VENDORS`.
const GEMS: &str = "usr/share/rubygems-integration/all/gems";
const GEM: &str = "tpm-key_attestation-";
const GEM_CERTIFICATES: &str = "lib/tpm/certificates";
const TPM_VENDORS: &str = "usr/share/ros-operator/tpm-vendors.pem";
/// User and group id of the operator. It is not root. Other container images without a shell use the same number.
const USER: u64 = 65532;
const NAME: &str = "rancheros-operator";

/// Writes `<output>/rancheros-operator-<version>.tar`.
pub fn run(options: &OperatorOptions) -> Result<()> {
    let cache = Cache::open(options.cache.as_deref())?;
    let debian = Archive::open(&cache, &[], options.refresh)?.unpacked(&cache, PACKAGES)?;
    let files = files(&debian, &options.operator)?;
    let version = options.operator_version.as_str();
    let user = format!("{USER}:{USER}");
    let image = Image {
        reference: Some(&format!("{}:{version}", options.repository)),
        title: "RancherOS operator",
        description: "Registers machines, and keeps an inventory of them",
        version,
        user: &user,
        entrypoint: &["/usr/bin/ros-operator"],
        environment: &[
            "PATH=/usr/bin",
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            &format!("ROS_TPM_VENDORS=/{TPM_VENDORS}"),
        ],
        ports: &["8443/tcp"],
        annotations: &[],
        epoch: options.epoch,
    };
    let path = options.output.join(format!("{NAME}-{version}.tar"));
    progress::stage("writing the operator's image", || {
        fs::create_dir_all(&options.output).with_context(|| format!("creating {}", options.output.display()))?;
        oci::write(&image, &[Layer::gzip(&files, options.epoch)?], &path)
    })?;
    println!("{}", path.display());
    Ok(())
}

fn files(debian: &Path, operator: &Path) -> Result<Tree> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut tree = Tree::default();
    tree.insert("usr/bin/ros-operator", Node::file(0o755, read(operator)?))?;
    for name in LINKED {
        let path = format!("{LIBRARIES}/{name}");
        tree.insert(&path, Node::file(0o755, read(&debian.join(&path))?))?;
    }
    // The path of the loader in linked programs.
    tree.insert("lib64/ld-linux-x86-64.so.2", Node::link(format!("../{LIBRARIES}/ld-linux-x86-64.so.2")))?;
    tree.insert("etc/ssl/certs/ca-certificates.crt", Node::file(0o644, authorities(debian)?))?;
    tree.insert(TPM_VENDORS, Node::file(0o644, tpm_vendors(debian)?))?;
    tree.insert("etc/passwd", Node::file(0o644, format!("nonroot:x:{USER}:{USER}::/:/nonexistent\n")))?;
    tree.insert("etc/group", Node::file(0o644, format!("nonroot:x:{USER}:\n")))?;
    tree.insert("etc/nsswitch.conf", Node::file(0o644, "hosts: files dns\n"))?;
    tree.insert("tmp", Node::folder(0o1777))?;
    Ok(tree)
}

/// All certificates of the package in one file, as `update-ca-certificates` writes it.
fn authorities(debian: &Path) -> Result<String> {
    let folder = debian.join("usr/share/ca-certificates/mozilla");
    let mut certificates = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        certificates.insert(path, text);
    }
    Ok(certificates.values().map(|text| format!("{}\n", text.trim_end())).collect())
}

/// All certificates of the package in one PEM file. The package has them as PEM and as DER.
fn tpm_vendors(debian: &Path) -> Result<String> {
    let gems = debian.join(GEMS);
    let entries = fs::read_dir(&gems).with_context(|| format!("reading {}", gems.display()))?;
    let gem = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(GEM)));
    let gem = gem.with_context(|| format!("finding {GEM}* in {}", gems.display()))?;
    let mut certificates = BTreeMap::new();
    collect(&gem.join(GEM_CERTIFICATES), &mut certificates)?;
    ensure!(!certificates.is_empty(), "{} contains no certificates", gem.display());
    Ok(certificates.values().map(|content| pem(content)).collect())
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            files.insert(path, content);
        }
    }
    Ok(())
}

fn pem(certificate: &[u8]) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    if let Some(text) = std::str::from_utf8(certificate).ok().filter(|text| text.contains(BEGIN)) {
        return format!("{}\n", text.trim().replace('\r', ""));
    }
    let encoded = STANDARD.encode(certificate);
    let lines = encoded.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    format!("{BEGIN}\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_roots_become_one_file_whatever_form_they_have() {
        let debian = tempfile::tempdir().unwrap();
        let folder = debian.path().join(GEMS).join("tpm-key_attestation-1.2.3").join(GEM_CERTIFICATES);
        let text = "-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----\r\n";
        for (path, content) in [("B/RootCA/b.cer", &[7; 60][..]), ("A/RootCA/a.crt", text.as_bytes())] {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let encoded = STANDARD.encode([7; 60]);
        let expected = format!("{}{}", text.replace('\r', ""), pem(&[7; 60]));
        assert_eq!(tpm_vendors(debian.path()).unwrap(), expected);
        assert_eq!(pem(&[7; 60]).lines().nth(1), Some(&encoded[..64]));
        assert!(tpm_vendors(&debian.path().join("nothing")).is_err());
    }
}
