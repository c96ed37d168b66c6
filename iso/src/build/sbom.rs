//! The software bill of materials of a release, `sbom.spdx.json`: the Debian packages in it, and the programs that we add.
//! Format: SPDX 2.3 (ISO/IEC 5962), as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use release::ReleaseManifest;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::tree::Tree;

/// Beside `release.json`.
const FILE: &str = "sbom.spdx.json";
/// dpkg's list of packages, in the tree of a base.
const STATUS: &str = "var/lib/dpkg/status";
const UNKNOWN: &str = "NOASSERTION";

/// A Debian package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub maintainer: String,
    /// Whose package it is, as in the ID of os-release: `debian`, `ubuntu`.
    pub distribution: String,
}

/// The packages that are installed in a base. None where it has no list of dpkg.
pub fn of_base(base: &Tree) -> Result<Vec<Package>> {
    if base.find(STATUS).is_none() {
        return Ok(Vec::new());
    }
    let status = base.text(STATUS).context("reading the list of packages")?;
    let distribution = base.text("etc/os-release").ok().and_then(|text| {
        let id = text.lines().find_map(|line| line.strip_prefix("ID="))?;
        Some(id.trim_matches('"').to_owned())
    });
    let is_installed = |stanza: &&str| field(stanza, "Status").is_some_and(|status| status.ends_with(" installed"));
    let packages = status.split("\n\n").filter(is_installed).filter_map(package);
    Ok(match distribution {
        None => packages.collect(),
        Some(distribution) => {
            packages.map(|package| Package { distribution: distribution.clone(), ..package }).collect()
        }
    })
}

/// A package of Debian from the fields that dpkg and apt print (deb-control(5)). `None` if it has no name or version.
pub fn package(stanza: &str) -> Option<Package> {
    let text = |name: &str| field(stanza, name).unwrap_or_default().to_owned();
    let (name, version) = (field(stanza, "Package")?.to_owned(), field(stanza, "Version")?.to_owned());
    Some(Package {
        name,
        version,
        architecture: text("Architecture"),
        maintainer: text("Maintainer"),
        distribution: "debian".to_owned(),
    })
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

/// Writes the bill of the release in `folder`. `digest`: SHA-256 of its manifest. `ours`: names of the programs that we add.
pub fn write(
    folder: &Path,
    manifest: &ReleaseManifest,
    digest: &str,
    mut packages: Vec<Package>,
    ours: &[&str],
    epoch: u32,
) -> Result<()> {
    packages.sort();
    packages.dedup();
    let created = OffsetDateTime::from_unix_timestamp(epoch.into())?.format(&Rfc3339).context("writing the time")?;
    let document = document(manifest, digest, &packages, ours, &created);
    let path = folder.join(FILE);
    fs::write(&path, serde_json::to_string_pretty(&document)? + "\n")
        .with_context(|| format!("writing {}", path.display()))
}

fn document(manifest: &ReleaseManifest, digest: &str, packages: &[Package], ours: &[&str], created: &str) -> Value {
    let version = manifest.version.as_str();
    let entry = |id: &str, name: &str, version: &str, supplier: String| {
        json!({
            "SPDXID": id,
            "name": name,
            "versionInfo": version,
            "supplier": supplier,
            "downloadLocation": UNKNOWN,
            "filesAnalyzed": false,
            "licenseConcluded": UNKNOWN,
            "licenseDeclared": UNKNOWN,
            "copyrightText": UNKNOWN,
        })
    };
    let mut entries = vec![entry("SPDXRef-release", "rancheros", version, UNKNOWN.to_owned())];
    entries[0]["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": digest}]);
    for name in ours {
        entries.push(entry(&format!("SPDXRef-program-{name}"), name, version, UNKNOWN.to_owned()));
    }
    for (number, package) in packages.iter().enumerate() {
        let Package { name, version, architecture, maintainer, distribution } = package;
        let supplier = if maintainer.is_empty() { UNKNOWN.to_owned() } else { format!("Organization: {maintainer}") };
        let mut debian = entry(&format!("SPDXRef-debian-{number}"), name, version, supplier);
        debian["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl(distribution, name, version, architecture),
        }]);
        entries.push(debian);
    }
    let contains = entries[1..].iter().map(|entry| {
        json!({"spdxElementId": "SPDXRef-release", "relationshipType": "CONTAINS", "relatedSpdxElement": entry["SPDXID"]})
    });
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-release",
    });
    let relationships: Vec<Value> = std::iter::once(describes).chain(contains).collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("rancheros-{version}"),
        "documentNamespace": format!("https://spdx.org/spdxdocs/rancheros-{version}-{digest}"),
        "creationInfo": {"created": created, "creators": [concat!("Tool: ros-image-", env!("CARGO_PKG_VERSION"))]},
        "packages": entries,
        "relationships": relationships,
    })
}

/// The package as a URL (package-url specification, type `deb`). A version may have characters that a URL has for itself.
fn purl(distribution: &str, name: &str, version: &str, architecture: &str) -> String {
    let encoded = |text: &str| -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
        text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
    };
    format!("pkg:deb/{}/{}@{}?arch={architecture}", encoded(distribution), encoded(name), encoded(version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tree::Node;
    use release::ReleaseSource;
    use release::fixtures::write_tiny_release;

    const STANZA: &str = "Package: libstdc++6\nStatus: install ok installed\nVersion: 14.2.0-19\nArchitecture: amd64\n\
                          Maintainer: Debian GCC Maintainers <debian-gcc@lists.debian.org>\n";

    #[test]
    fn installed_packages_are_listed() {
        let mut base = Tree::default();
        assert_eq!(of_base(&base).unwrap(), []);
        let status = format!("{STANZA}\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n");
        base.insert(STATUS, Node::file(0o644, status)).unwrap();
        assert_eq!(of_base(&base).unwrap(), [package(STANZA).unwrap()]);
        base.insert("etc/os-release", Node::file(0o644, "NAME=x\nID=\"ubuntu\"\n")).unwrap();
        assert_eq!(of_base(&base).unwrap()[0].distribution, "ubuntu");
        assert_eq!(package("Package: a\n"), None);
    }

    #[test]
    fn the_release_contains_every_package() {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_release(folder.path(), &[5; 8192]);
        let release = ReleaseSource::open(folder.path()).unwrap();
        let packages = vec![package(STANZA).unwrap(), package(STANZA).unwrap()];
        write(folder.path(), release.manifest(), &"ab".repeat(32), packages, &["ros-init"], 1_760_000_000).unwrap();
        let bill: Value = serde_json::from_slice(&fs::read(folder.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(bill["creationInfo"]["created"], "2025-10-09T08:53:20Z");
        let ids: Vec<&str> =
            bill["packages"].as_array().unwrap().iter().map(|one| one["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids, ["SPDXRef-release", "SPDXRef-program-ros-init", "SPDXRef-debian-0"]);
        let debian = &bill["packages"][2];
        let purl = "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64";
        assert_eq!(
            (&debian["versionInfo"], &debian["externalRefs"][0]["referenceLocator"]),
            (&json!("14.2.0-19"), &json!(purl))
        );
        let related: Vec<&Value> =
            bill["relationships"].as_array().unwrap().iter().map(|one| &one["relatedSpdxElement"]).collect();
        assert_eq!(related, ids);
    }
}
