//! The manifest of an OS release, `release.json`. It describes the files beside it.

use crate::{SemanticVersion, Verity, digest};
use boot_contract::verity::MalformedVerity;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The manifest's name in the folder of a release.
pub const MANIFEST: &str = "release.json";

/// `release.json`. File names are relative to its folder; they hold no `..` and are not absolute. Every way to read a
/// manifest checks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
// serde makes functions of the type itself, which the two traits below call: no manifest is deserialized unchecked.
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct ReleaseManifest {
    /// The form of the manifest. It rises when a program that does not know the new form could not install the release.
    #[serde(default = "first_schema")]
    pub schema: u32,
    pub version: String,
    /// The oldest version that a machine takes once this release came up on it. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<SemanticVersion>,
    /// As `uname -m` prints it.
    pub architecture: String,
    /// EROFS with the verity tree appended: the bytes of a slot.
    pub root: ReleaseFile,
    pub verity: Verity,
    pub kernel: ReleaseFile,
    pub initrd: ReleaseFile,
    /// Files of the EFI system partition and of BIOS boot, by their role.
    pub boot: BootFiles,
    /// The smallest slot, in bytes, that this release's successors are expected to fit.
    pub minimum_slot_bytes: u64,
    /// Kernel arguments that do not depend on the slot.
    pub kernel_arguments: String,
    /// Names of the loadable kernel modules in the initrd, with underscores. A disk that needs another module cannot be
    /// booted. Absent in releases that are older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_modules: Option<Vec<String>>,
    /// Whether the recovery system of this release carries out a request to reset. False in releases that are older than
    /// this field.
    #[serde(default)]
    pub recovery_resets: bool,
}

/// The part of a manifest that says how to read the rest.
#[derive(Deserialize)]
struct Form {
    #[serde(default = "first_schema_wide")]
    schema: u64,
}

/// Manifests without a schema are older than the field.
fn first_schema() -> u32 {
    1
}

fn first_schema_wide() -> u64 {
    first_schema().into()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseFile {
    pub name: String,
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootFiles {
    /// shim, signed by Microsoft: `EFI/BOOT/BOOTX64.EFI`.
    pub shim: ReleaseFile,
    /// GRUB, signed by Debian: `EFI/BOOT/grubx64.efi`.
    pub grub: ReleaseFile,
    /// MokManager: `EFI/BOOT/mmx64.efi`.
    pub mok_manager: ReleaseFile,
    /// The menu that an installation writes, once: `grub/grub.cfg`.
    pub grub_config: ReleaseFile,
    /// The menu that an upgrade brings, as `grub/menu-N.cfg`: it starts the slot `$ros_slot`. Absent: the one in
    /// `grub/grub.cfg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub menu: Option<ReleaseFile>,
    /// First 440 bytes of a BIOS disk.
    pub bios_boot: ReleaseFile,
    /// GRUB's core image for the BIOS boot partition.
    pub bios_core: ReleaseFile,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("release.json has {0} bytes; the limit is {max}", max = ReleaseManifest::MAX_BYTES)]
    TooBig(usize),
    #[error("release.json cannot be parsed: {0}")]
    Malformed(String),
    #[error(
        "release.json has schema {0}, and this program knows schemas up to {max}: use the ros-installer or ros-image of \
         that release or of a newer one, or upgrade the machine to a release in between first",
        max = ReleaseManifest::SCHEMA
    )]
    NewerSchema(u64),
    #[error("release.json: {field} {rule}")]
    Unacceptable { field: String, rule: &'static str },
}

impl ReleaseManifest {
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The newest schema, which `ros-image` writes.
    pub const SCHEMA: u32 = 1;

    /// Reads `release.json` and checks the manifest itself. The caller checks the files that it names.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ManifestError::TooBig(bytes.len()));
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let malformed = |error: serde_json::Error| ManifestError::Malformed(error.to_string());
        // The schema comes first: the rest of a newer manifest may look broken to this program.
        let Form { schema } = serde_json::from_slice(bytes).map_err(malformed)?;
        if schema > u64::from(Self::SCHEMA) {
            return Err(ManifestError::NewerSchema(schema));
        }
        // This calls the function of the type, not of the trait, so that a broken rule is not reported as broken JSON.
        let manifest = Self::deserialize(&mut json).map_err(malformed)?;
        json.end().map_err(malformed)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Every file beside the manifest, by its role.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &ReleaseFile)> {
        let always = [
            ("root", &self.root),
            ("kernel", &self.kernel),
            ("initrd", &self.initrd),
            ("boot.shim", &self.boot.shim),
            ("boot.grub", &self.boot.grub),
            ("boot.mokManager", &self.boot.mok_manager),
            ("boot.grubConfig", &self.boot.grub_config),
            ("boot.biosBoot", &self.boot.bios_boot),
            ("boot.biosCore", &self.boot.bios_core),
        ];
        always.into_iter().chain(self.boot.menu.iter().map(|menu| ("boot.menu", menu)))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let rule = |holds: bool, field: &str, rule| {
            if holds { Ok(()) } else { Err(ManifestError::Unacceptable { field: field.to_owned(), rule }) }
        };
        rule(self.schema > 0, "schema", "is zero")?;
        if self.schema > Self::SCHEMA {
            return Err(ManifestError::NewerSchema(self.schema.into()));
        }
        rule(is_word(&self.version), "version", "is not 1 to 64 letters, digits and any of `.-_+~`")?;
        if let Some(minimum) = &self.minimum_version {
            // Otherwise a machine that runs this release could not install it again.
            rule(minimum.admits(&self.version).is_ok(), "minimumVersion", "is newer than the release's own version")?;
        }
        rule(is_word(&self.architecture), "architecture", "is not 1 to 64 letters, digits and any of `.-_+~`")?;
        for (role, file) in self.files() {
            rule(is_inside(&file.name), &format!("{role}.name"), "is not a path in the release's folder")?;
            rule(is_hex(&file.sha256, 32), &format!("{role}.sha256"), "is not 64 lower-case hex digits")?;
            rule(file.size > 0, &format!("{role}.size"), "is zero")?;
        }
        let unacceptable =
            |error: MalformedVerity| ManifestError::Unacceptable { field: "verity".into(), rule: error.reason() };
        self.verity.argument().check().map_err(unacceptable)?;
        let blocks = self.root.size / Verity::BLOCK_BYTES;
        rule(
            self.root.size.is_multiple_of(Verity::BLOCK_BYTES),
            "root.size",
            "is not a whole number of 4096-byte blocks",
        )?;
        rule(self.verity.hash_start < blocks, "verity", "has a hash tree that begins after the end of the root image")?;
        rule(self.minimum_slot_bytes >= self.root.size, "minimumSlotBytes", "is smaller than the root image")?;
        rule(
            is_plain_line(&self.kernel_arguments),
            "kernelArguments",
            "contains a character that GRUB would interpret",
        )?;
        let is_module = |name: &String| is_word(name) && !name.contains('-');
        let modules = self.initrd_modules.iter().flatten();
        rule(
            modules.clone().all(is_module),
            "initrdModules",
            "contains a text that is not a module name with underscores",
        )
    }
}

impl<'de> Deserialize<'de> for ReleaseManifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let manifest = Self::deserialize(deserializer)?;
        manifest.check().map_err(D::Error::custom)?;
        Ok(manifest)
    }
}

impl Serialize for ReleaseManifest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// The name of a release as machines report it: `sha256:` and the hex digest of its `release.json`.
pub fn manifest_digest(manifest: &[u8]) -> String {
    format!("sha256:{}", digest::of_bytes(manifest))
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+~".contains(&b))
}

/// Whether a file of a release may have this name: a relative path that stays below the folder it is relative to. Only
/// certain characters are allowed, because the path also becomes part of a FAT file system.
pub fn is_inside(path: &str) -> bool {
    path.len() <= 255
        && path.split('/').all(|part| {
            let dots = part.bytes().all(|b| b == b'.');
            !dots && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+~".contains(&b))
        })
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == bytes * 2 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a kernel line can be written into a GRUB script, between double quotes.
pub fn is_plain_line(text: &str) -> bool {
    text.len() <= 1024 && text.bytes().all(|b| matches!(b, b' '..=b'~') && !b"\"'\\$`;{}|&<>".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const MANIFEST_OF_0_1: &str = include_str!("../testdata/release.json");

    fn changed(pointer: &str, value: serde_json::Value) -> Result<ReleaseManifest, ManifestError> {
        let mut manifest: serde_json::Value = serde_json::from_str(MANIFEST_OF_0_1).unwrap();
        *manifest.pointer_mut(pointer).expect(pointer) = value;
        ReleaseManifest::parse(manifest.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_parses_for_ever() {
        let manifest = ReleaseManifest::parse(MANIFEST_OF_0_1.as_bytes()).unwrap();
        assert_eq!(manifest.version, "0.1.0");
        assert_eq!(manifest.files().count(), 9);
        assert_eq!(manifest.verity.argument().to_string().parse(), Ok(manifest.verity.argument()));
    }

    #[test]
    fn the_modules_of_the_initrd_are_optional_names() {
        let with = |modules: serde_json::Value| with("initrdModules", modules);
        assert_eq!(ReleaseManifest::parse(MANIFEST_OF_0_1.as_bytes()).unwrap().initrd_modules, None);
        assert_eq!(with(json!(["mpi3mr", "3w_9xxx"])).unwrap().initrd_modules.unwrap().len(), 2);
        for bad in ["", "sdhci-pci", "a b"] {
            assert!(matches!(with(json!([bad])), Err(ManifestError::Unacceptable { .. })), "{bad:?}");
        }
    }

    fn with(field: &str, value: serde_json::Value) -> Result<ReleaseManifest, ManifestError> {
        let mut manifest: serde_json::Value = serde_json::from_str(MANIFEST_OF_0_1).unwrap();
        manifest[field] = value;
        ReleaseManifest::parse(manifest.to_string().as_bytes())
    }

    #[test]
    fn a_newer_schema_is_said_whatever_else_is_in_it() {
        assert_eq!(ReleaseManifest::parse(MANIFEST_OF_0_1.as_bytes()).unwrap().schema, 1);
        assert_eq!(with("schema", json!(1)).unwrap().schema, 1);
        let newer = br#"{"schema": 2, "slots": {"root": []}}"#;
        let error = ReleaseManifest::parse(newer).unwrap_err();
        assert_eq!(error, ManifestError::NewerSchema(2));
        assert!(error.to_string().contains("up to 1") && error.to_string().contains("upgrade"), "{error}");
        assert_eq!(with("schema", json!(u64::MAX)), Err(ManifestError::NewerSchema(u64::MAX)));
        assert!(matches!(with("schema", json!(0)), Err(ManifestError::Unacceptable { .. })));
        for odd in [json!("1"), json!(-1), json!(null), json!(1.5)] {
            assert!(matches!(with("schema", odd), Err(ManifestError::Malformed(_))));
        }
    }

    #[test]
    fn the_oldest_version_taken_is_not_above_the_release() {
        for minimum in ["0.1.0", "0.1.0-rc.1", "0.0.9"] {
            let manifest = with("minimumVersion", json!(minimum)).unwrap();
            assert_eq!(manifest.minimum_version.unwrap().to_string(), minimum);
        }
        assert!(matches!(
            with("minimumVersion", json!("0.1.1")),
            Err(ManifestError::Unacceptable { field, .. }) if field == "minimumVersion"
        ));
        assert!(matches!(with("minimumVersion", json!("1")), Err(ManifestError::Malformed(_))));
    }

    #[test]
    fn a_broken_rule_is_refused_with_its_field() {
        let cases = [
            ("/version", json!("1.0 beta"), "version"),
            ("/root/name", json!("../root"), "root.name"),
            ("/kernel/name", json!("/vmlinuz"), "kernel.name"),
            ("/initrd/name", json!(""), "initrd.name"),
            ("/boot/grub/name", json!("boot//grub"), "boot.grub.name"),
            ("/boot/shim/sha256", json!("AB"), "boot.shim.sha256"),
            ("/root/size", json!(4097), "root.size"),
            ("/verity/rootHash", json!(""), "verity"),
            ("/verity/salt", json!("xyz"), "verity"),
            ("/verity/hashStart", json!(0), "verity"),
            ("/minimumSlotBytes", json!(1), "minimumSlotBytes"),
            ("/kernelArguments", json!("quiet\" ; reboot"), "kernelArguments"),
        ];
        for (pointer, value, expected) in cases {
            match changed(pointer, value) {
                Err(ManifestError::Unacceptable { field, .. }) => assert_eq!(field, expected),
                other => panic!("{pointer}: {other:?}"),
            }
        }
        assert!(matches!(changed("/root", json!([])), Err(ManifestError::Malformed(_))));
        let big = " ".repeat(ReleaseManifest::MAX_BYTES + 1);
        assert_eq!(ReleaseManifest::parse(big.as_bytes()), Err(ManifestError::TooBig(big.len())));
    }

    #[test]
    fn no_manifest_is_deserialized_unchecked() {
        let bad = MANIFEST_OF_0_1.replace("\"0.1.0\"", "\"0 1\"");
        let error = serde_json::from_str::<ReleaseManifest>(&bad).unwrap_err().to_string();
        assert!(error.contains("version"), "{error}");
        let manifest = ReleaseManifest::parse(MANIFEST_OF_0_1.as_bytes()).unwrap();
        assert_eq!(
            serde_json::from_str::<ReleaseManifest>(&serde_json::to_string(&manifest).unwrap()).unwrap(),
            manifest
        );
        assert!(matches!(
            ReleaseManifest::parse(format!("{MANIFEST_OF_0_1} x").as_bytes()),
            Err(ManifestError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = ReleaseManifest::parse(&bytes);
        }

        #[test]
        fn a_name_taken_stays_inside(name in "[a./]{0,12}") {
            if is_inside(&name) {
                let path = std::path::Path::new(&name);
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
