//! The steps of an installation as values, in the order in which they are carried out.

use super::Request;
use crate::layout::{Layout, Role};
use crate::{args_cfg, sums};
use boot_contract::paths::{OEM, OEM_FIRST_BOOT};
use boot_contract::slot_files::{ARGUMENTS, INITRD, KERNEL};
use boot_contract::{BootState, Slot, boot_state};
use release::{MANIFEST, ReleaseFile, ReleaseManifest};
use serde::{Serialize, Serializer};
use std::fmt;
use uuid::Uuid;

/// One step of an installation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum Step {
    /// Erases old partition tables and writes the marker of an installation that has begun.
    Clear { version: String },
    /// Writes the root image to each of these partitions. The image is read once.
    Root { image: ReleaseFile, into: Vec<Role> },
    /// Writes the FAT file system that firmware and GRUB read.
    Boot { volume_id: u32, files: Vec<BootFile> },
    /// Writes an ext4 file system with these files, which are owned by root and readable only by root.
    Ext4 { role: Role, uuid: Uuid, files: Vec<ConfigFile> },
    /// Writes GRUB for BIOS to its own partition.
    BiosCore { core: ReleaseFile },
    /// Reads everything written so far back from the disk and compares it.
    Verify,
    /// Writes the boot code and the partition tables. After this step the disk can be booted.
    Commit { version: String, boot_code: Option<ReleaseFile> },
}

/// A file on the boot partition. `path` is relative and uses `/`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BootFile {
    pub path: String,
    pub content: Content,
}

/// Where the content of a file comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    Release(ReleaseFile),
    /// `release.json` itself.
    Manifest,
    Text(String),
}

/// A file in the root folder of one of our file systems, mode 0600. It may hold secrets, so neither `Debug` nor the
/// serialized form shows its content.
#[derive(Clone, PartialEq, Serialize)]
pub struct ConfigFile {
    pub name: String,
    #[serde(serialize_with = "length_only")]
    content: String,
}

impl ConfigFile {
    pub fn new(name: impl Into<String>, content: impl Into<String>) -> Self {
        Self { name: name.into(), content: content.into() }
    }

    pub fn content(&self) -> &str {
        &self.content
    }
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.content.len())
    }
}

fn length_only<S: Serializer>(content: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{} bytes", content.len()))
}

/// The first configuration that the signed GRUB reads, from the partition it was loaded from. The search is for
/// firmware that does not say which partition that was.
const EARLY_GRUB_CONFIG: &str = "\
if [ ! -e ($root)/grub/grub.cfg ]; then search --no-floppy --set=root --label COS_BOOT; fi
set prefix=($root)/grub
configfile ($root)/grub/grub.cfg
";

pub(super) fn steps(
    request: &Request,
    release: &ReleaseManifest,
    layout: &Layout,
    ids: &mut dyn FnMut() -> Uuid,
) -> Vec<Step> {
    let version = release.version.clone();
    // GRUB's BIOS loader counts in sectors of 512 bytes.
    let bios = !*request.uefi_only && layout.sector_bytes == 512;
    let mut steps = vec![
        Step::Clear { version: version.clone() },
        Step::Root { image: release.root.clone(), into: vec![Role::StateA, Role::Recovery] },
        Step::Boot { volume_id: ids().as_fields().0, files: boot_files(request, release, layout) },
        Step::Ext4 { role: Role::Oem, uuid: ids(), files: configuration(request, layout) },
        Step::Ext4 { role: Role::Persistent, uuid: ids(), files: Vec::new() },
    ];
    if bios {
        steps.push(Step::BiosCore { core: release.boot.bios_core.clone() });
    }
    steps.push(Step::Verify);
    steps.push(Step::Commit { version, boot_code: bios.then(|| release.boot.bios_boot.clone()) });
    steps
}

/// A file at the top of COS_OEM of a disk image. It holds the GUID that the disk has in the image: a disk with another one has its
/// own identifiers already.
const FIRST_BOOT: &str = OEM_FIRST_BOOT.split_at(OEM.len() + 1).1;

/// The files of COS_OEM.
fn configuration(request: &Request, layout: &Layout) -> Vec<ConfigFile> {
    let first_boot = request.image.map(|_| ConfigFile::new(FIRST_BOOT, layout.disk_guid.to_string() + "\n"));
    request.configuration.iter().cloned().chain(first_boot).collect()
}

fn boot_files(request: &Request, release: &ReleaseManifest, layout: &Layout) -> Vec<BootFile> {
    let file = |path: &str, content| BootFile { path: path.into(), content };
    let from_release = |path: &str, from: &ReleaseFile| file(path, Content::Release(from.clone()));
    let boot = &release.boot;
    let mut files = vec![
        from_release("EFI/BOOT/BOOTX64.EFI", &boot.shim),
        from_release("EFI/BOOT/grubx64.efi", &boot.grub),
        from_release("EFI/BOOT/mmx64.efi", &boot.mok_manager),
        file("EFI/debian/grub.cfg", Content::Text(EARLY_GRUB_CONFIG.into())),
        from_release("grub/grub.cfg", &boot.grub_config),
        file(boot_state::PATH, Content::Text(environment())),
    ];
    for (slot, role) in [(Slot::A, Role::StateA), (Slot::Recovery, Role::Recovery)] {
        let folder = slot.letter();
        let arguments = slot_arguments(request, release, layout, slot, role);
        files.extend([
            from_release(&format!("{folder}/{KERNEL}"), &release.kernel),
            from_release(&format!("{folder}/{INITRD}"), &release.initrd),
            file(&format!("{folder}/{}", sums::FILE), Content::Text(sums::of(release))),
            file(&format!("{folder}/{ARGUMENTS}"), Content::Text(arguments)),
            file(&format!("{folder}/{MANIFEST}"), Content::Manifest),
        ]);
    }
    files
}

fn environment() -> String {
    String::from_utf8(BootState::INSTALLED.to_bytes()).expect("the block is ASCII")
}

/// The content of a slot's `args.cfg`, which `grub.cfg` sources before it starts the slot.
fn slot_arguments(request: &Request, release: &ReleaseManifest, layout: &Layout, slot: Slot, role: Role) -> String {
    // Messages of init go to the last console.
    let plain = |tty: &&String| tty.bytes().all(|b| b.is_ascii_alphanumeric() || b == b',');
    let console = request.console.as_ref().filter(plain).map(|tty| format!("console={tty}")).unwrap_or_default();
    if request.image.is_some() {
        args_cfg::write_for_image(&args_cfg::of_image_slot(slot, release, &console), role.number())
    } else {
        args_cfg::write(&args_cfg::of_slot(slot, layout.partition(role).guid, release, &console))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{blank_disk, plan_for};
    use crate::plan::Choice;

    fn steps_with(request: &Request) -> (Vec<Step>, Layout) {
        let plan = plan_for(blank_disk("/dev/vda"), request).unwrap();
        (plan.steps, plan.layout)
    }

    #[test]
    fn the_tables_come_last_and_after_reading_everything_back() {
        let (steps, _) = steps_with(&Request::default());
        assert!(matches!(steps.first(), Some(Step::Clear { .. })));
        assert!(matches!(steps[steps.len() - 2..], [Step::Verify, Step::Commit { boot_code: Some(_), .. }]));
    }

    #[test]
    fn each_slot_names_its_own_partition() {
        let request = Request { console: Some("ttyS0,115200".into()), ..Request::default() };
        let (steps, layout) = steps_with(&request);
        let files = steps.iter().find_map(|step| match step {
            Step::Boot { files, .. } => Some(files),
            _ => None,
        });
        let text = |path: &str| match &files.unwrap().iter().find(|f| f.path == path).unwrap().content {
            Content::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        let expected = format!(
            "set slot_args=\"ros.mode=system ros.slot=A ros.root={} ros.verity=1:1:{}:- console=tty0 \
             console=ttyS0,115200\"\n",
            layout.partition(Role::StateA).guid,
            "ab".repeat(32)
        );
        assert_eq!(text("A/args.cfg"), expected);
        let recovery = layout.partition(Role::Recovery).guid;
        assert!(text("R/args.cfg").contains(&format!("ros.mode=recovery ros.slot=R ros.root={recovery}")));
    }

    #[test]
    fn a_machine_for_uefi_only_gets_no_bios_code() {
        let request = Request { uefi_only: Choice::new(true, "the command line"), ..Request::default() };
        let (steps, _) = steps_with(&request);
        assert!(!steps.iter().any(|step| matches!(step, Step::BiosCore { .. })));
        assert!(matches!(steps.last(), Some(Step::Commit { boot_code: None, .. })));
    }
}
