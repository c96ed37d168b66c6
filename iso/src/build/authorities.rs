//! Certificate authorities that an image trusts beside the public ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use release::digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::tree::{Node, Tree};

/// The bundle that most programs read.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// The folder from which `update-ca-certificates` makes the bundle anew.
const LOCAL: &str = "usr/local/share/ca-certificates";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Digits of the digest in a file's name.
const DIGITS: usize = 16;

/// A certificate.
#[derive(Debug)]
pub struct Authority {
    /// With a newline at the end.
    pub pem: String,
}

/// Reads files of certificates.
pub fn read(files: &[PathBuf]) -> Result<Vec<Authority>> {
    let mut authorities = Vec::new();
    for file in files {
        authorities.extend(parse(file).with_context(|| format!("--ca {}", file.display()))?);
    }
    Ok(authorities)
}

fn parse(file: &Path) -> Result<Vec<Authority>> {
    let text = fs::read_to_string(file).context("reading the file")?;
    ensure!(!text.contains("PRIVATE KEY"), "it has a private key, which must not be in an image");
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    ensure!(!certificates.context("parsing its PEM")?.is_empty(), "it has no PEM certificate");
    // `update-ca-certificates` wants one certificate in each file.
    let blocks = text.split_inclusive(END).filter_map(|block| Some(&block[block.find(BEGIN)?..]));
    Ok(blocks.map(|block| Authority { pem: format!("{block}\n") }).collect())
}

/// Puts them into the bundle, and where they stay when a machine makes the bundle anew.
pub fn add(tree: &mut Tree, authorities: &[Authority]) -> Result<()> {
    if authorities.is_empty() {
        return Ok(());
    }
    let mut bundle = tree.text(BUNDLE)?;
    for Authority { pem } in authorities {
        let name = format!("{LOCAL}/{}.crt", &digest::of_bytes(pem.as_bytes())[..DIGITS]);
        tree.insert(&name, Node::file(0o644, pem.as_str()))?;
        bundle.push_str(pem);
    }
    tree.insert(BUNDLE, Node::file(0o644, bundle))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
    const OTHER: &str = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----";

    #[test]
    fn authorities_are_in_the_bundle_and_stay_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        fs::write(&file, format!("# ours\n{PEM}\n# and\n{OTHER}")).unwrap();
        let authorities = read(&[file]).unwrap();
        let mut tree = Tree::default();
        tree.insert(BUNDLE, Node::file(0o644, "public\n")).unwrap();
        add(&mut tree, &authorities).unwrap();
        assert_eq!(tree.text(BUNDLE).unwrap(), format!("public\n{PEM}\n{OTHER}\n"));
        for pem in [PEM, OTHER] {
            let name = format!("{LOCAL}/{}.crt", &digest::of_bytes(format!("{pem}\n").as_bytes())[..DIGITS]);
            assert_eq!(tree.text(&name).unwrap(), format!("{pem}\n"));
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let key = format!("{PEM}\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        for (text, told) in [("", "no PEM certificate"), ("hello", "no PEM certificate"), (&*key, "a private key")] {
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", read(std::slice::from_ref(&file)).unwrap_err());
            assert!(error.contains(told) && error.contains("ca.pem"), "{error}");
        }
    }
}
