//! The operator's container image: its program, the libraries that it is linked to, and the certificates of public
//! authorities, in one layer that nobody in the container can change. No shell, no package manager.
//!
//! The libraries are Debian's, from the release that the machines' images are made of. Linking the C library statically
//! instead, as for ros-init, would compile every dependency a second time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::build::archive::Archive;
use crate::build::tree::{Node, Tree};
use crate::cache::Cache;
use crate::cli::OperatorOptions;
use crate::oci::{self, Image};
use crate::progress;

/// Exactly these, without what they depend on: certificates are data, and the libraries need only each other.
const PACKAGES: &[&str] = &["ca-certificates", "libc6", "libgcc-s1"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// What the program is linked to, and what the C library loads to find names.
const LINKED: &[&str] =
    &["ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libm.so.6", "libnss_dns.so.2", "libnss_files.so.2"];
/// The user and the group whose only property is not to be root; the number is that of other images without a shell.
const USER: u64 = 65532;
const NAME: &str = "rancheros-operator";

/// Writes `<output>/rancheros-operator-<version>.tar`.
pub fn run(options: &OperatorOptions) -> Result<()> {
    let cache = Cache::open(options.cache.as_deref())?;
    let debian = Archive::open(&cache, options.refresh)?.unpacked(&cache, PACKAGES)?;
    let files = files(&debian, &options.operator)?;
    let version = options.operator_version.as_str();
    let user = format!("{USER}:{USER}");
    let image = Image {
        reference: &format!("{}:{version}", options.repository),
        version,
        user: &user,
        entrypoint: &["/usr/bin/ros-operator"],
        environment: &["PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
        ports: &["8443/tcp"],
        epoch: options.epoch,
    };
    let path = options.output.join(format!("{NAME}-{version}.tar"));
    progress::stage("writing the operator's image", || {
        let archive = oci::archive(&image, &files)?;
        fs::create_dir_all(&options.output).with_context(|| format!("making {}", options.output.display()))?;
        fs::write(&path, archive).with_context(|| format!("writing {}", path.display()))
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
    // Where programs are linked to look for the loader.
    tree.insert("lib64/ld-linux-x86-64.so.2", Node::link(format!("../{LIBRARIES}/ld-linux-x86-64.so.2")))?;
    tree.insert("etc/ssl/certs/ca-certificates.crt", Node::file(0o644, authorities(debian)?))?;
    tree.insert("etc/passwd", Node::file(0o644, format!("nonroot:x:{USER}:{USER}::/:/nonexistent\n")))?;
    tree.insert("etc/group", Node::file(0o644, format!("nonroot:x:{USER}:\n")))?;
    tree.insert("etc/nsswitch.conf", Node::file(0o644, "hosts: files dns\n"))?;
    tree.insert("tmp", Node::folder(0o1777))?;
    Ok(tree)
}

/// What `update-ca-certificates` would make when the package is installed: all its certificates, in one file.
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
