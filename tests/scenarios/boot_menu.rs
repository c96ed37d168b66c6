//! The `grub.cfg` that an installation writes, run by GRUB itself. It can never be changed later. No system starts,
//! because the disk has no real kernels. GRUB's output on the serial line shows what it tried.

use boot_contract::boot_state::{SlotBoot, SlotState};
use boot_contract::{BootState, Slot};
use disk::DiskDescription;
use disk::bios::renew::{Loader, Place, Renewed, renew};
use disk::execute::execute;
use disk::layout::Role;
use disk::plan::{Host, InstallPlan, Request, plan};
use disk::target;
use qemu::paths;
use qemu::scratch::Scratch;
use release::{ReleaseFile, ReleaseManifest, ReleaseSource};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds. QEMU ends at the first reset; a menu that waits would wait for 60 s.
const LIMIT: &str = "120";

/// A disk as the installer writes it, with the real GRUB. All other files are a few bytes.
struct Disk {
    file: PathBuf,
    plan: InstallPlan,
    scratch: Scratch,
}

impl Disk {
    fn install(name: &str) -> Self {
        let scratch = Scratch::new(name).unwrap();
        let folder = scratch.folder("release").unwrap();
        tiny_release(&folder);
        let release = ReleaseSource::open(&folder).unwrap();
        let file = scratch.path().join("disk.img");
        let detail = DiskDescription {
            path: file.to_str().unwrap().to_owned(),
            size_bytes: 2 << 30,
            logical_sector_bytes: 512,
            ..DiskDescription::default()
        };
        File::create(&file).unwrap().set_len(detail.size_bytes).unwrap();
        let host = Host { architecture: "", is_bios: false, disks: &[detail], identities: &[] };
        let mut number = 0;
        let ids = || {
            number += 1;
            format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
        };
        let plan = plan(&Request::default(), host, release.manifest(), ids).unwrap();
        execute(&plan, &release, &mut |_| {}).unwrap();
        Self { file, plan, scratch }
    }

    /// The boot partition in the syntax of mtools.
    fn boot(&self) -> String {
        format!("{}@@{}", self.file.display(), self.plan.layout.partition(Role::Boot).offset)
    }

    fn put(&self, path: &str, content: &[u8]) {
        let file = self.scratch.path().join("content");
        fs::write(&file, content).unwrap();
        let copied =
            Command::new("mcopy").args(["-o", "-i", &self.boot()]).arg(file).arg(format!("::/{path}")).status();
        assert!(copied.unwrap().success(), "{path}");
    }

    fn state(&self) -> BootState {
        let block = Command::new("mtype").args(["-i", &self.boot(), "::/grub/grubenv"]).output().unwrap();
        BootState::parse(&block.stdout).unwrap()
    }

    /// Makes the disk start a GRUB that is one sector longer. The old core image is overwritten, so that it cannot start.
    fn renew_grub(&self) {
        let image = |name: &str| fs::read(paths::output().join("image/release/boot").join(name)).unwrap();
        let (boot_image, mut core_image) = (image("boot.img"), image("core.img"));
        core_image.extend([0; 512]);
        let bios = self.plan.layout.partition(Role::Bios);
        let place = Place { offset: bios.offset, length: bios.length };
        let mut disk = target::Disk::open_in_use(&self.file).unwrap();
        let loader = Loader { boot_image: &boot_image, core_image: &core_image };
        assert_eq!(renew(&mut disk, place, &loader).unwrap(), Renewed::Yes);
        File::options().write(true).open(&self.file).unwrap().write_all_at(&[0; 4096], bios.offset).unwrap();
    }

    /// GRUB's output from power-on to its own reset.
    fn start(&self) -> String {
        let drive = format!("file={},format=raw,if=virtio,cache=unsafe", self.file.display());
        let output = Command::new("timeout")
            .args([LIMIT, "qemu-system-x86_64", "-machine", "pc", "-m", "64", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio", "-drive", &drive])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "GRUB did not restart the machine by itself: {said}");
        said
    }
}

fn tiny_release(folder: &Path) {
    let real = paths::output().join("image/release");
    let mut manifest = ReleaseManifest::parse(&fs::read(real.join("release.json")).unwrap()).unwrap();
    fs::create_dir(folder.join("boot")).unwrap();
    let root = vec![7; 8192];
    manifest.verity.data_blocks = 1;
    manifest.verity.hash_start = 1;
    manifest.minimum_slot_bytes = 16 << 20;
    let boot = &mut manifest.boot;
    for file in [&mut boot.grub_config, &mut boot.bios_boot, &mut boot.bios_core] {
        fs::copy(real.join(&file.name), folder.join(&file.name)).unwrap();
    }
    let write = |file: &mut ReleaseFile, bytes: &[u8]| {
        fs::write(folder.join(&file.name), bytes).unwrap();
        file.size = bytes.len() as u64;
        file.sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes));
    };
    for file in [&mut boot.shim, &mut boot.grub, &mut boot.mok_manager, &mut manifest.kernel, &mut manifest.initrd] {
        write(file, b"nothing that starts");
    }
    write(&mut manifest.root, &root);
    fs::write(folder.join("release.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn vm_every_start_is_counted_by_grub_as_by_us() {
    let disk = Disk::install("boot-menu-counting");
    let trial = SlotBoot::new(SlotState::Trial);
    let mut expected = BootState {
        a: SlotBoot { state: SlotState::Good, left: 2 },
        b: SlotBoot { left: 1, ..trial },
        active: Slot::B,
        preferred: Slot::B,
        menu: 3,
        others: vec![b"variable_of=others".to_vec()],
        ..BootState::INSTALLED
    };
    disk.put("grub/grubenv", &expected.to_bytes());
    for slot in ["B", "A", "A", "R"] {
        let said = disk.start();
        let started = expected.start();
        assert!(said.contains(&format!("ros-boot: starting {slot} ")), "{said}");
        assert_eq!((started.letter(), disk.state()), (slot, expected.clone()), "{said}");
    }
    assert_eq!(expected.menu, 0, "the menu of the slot that failed is left with it");

    let mut damaged = expected.to_bytes();
    damaged[0] = b'?';
    disk.put("grub/grubenv", &damaged);
    let said = disk.start();
    assert!(said.contains("cannot be read") && said.contains("ros-boot: starting R "), "{said}");

    disk.put("A/initrd", b"damaged");
    disk.put("grub/grubenv", &BootState::INSTALLED.to_bytes());
    let said = disk.start();
    assert!(said.contains("A/vmlinuz or A/initrd is damaged") && said.contains("vmlinuz: OK"), "{said}");
    assert_eq!(disk.state().a.left, 2);

    disk.put("A/args.cfg", b"");
    disk.put("grub/grubenv", &BootState::INSTALLED.to_bytes());
    let said = disk.start();
    assert!(said.contains("args.cfg is missing or empty"), "{said}");
    assert_eq!(disk.state().a.left, 2);

    disk.renew_grub();
    let said = disk.start();
    assert!(said.contains("args.cfg is missing or empty"), "{said}");
    assert_eq!(disk.state().a.left, 1);
}

#[test]
fn vm_a_broken_menu_keeps_no_slot_from_starting() {
    let disk = Disk::install("boot-menu-broken");
    let state = BootState { a: SlotBoot::new(SlotState::Good), menu: 9, ..BootState::INSTALLED };
    let garbage: Vec<u8> = (0..2000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let menus: [(&str, Option<&[u8]>); 7] = [
        ("missing", None),
        ("empty", Some(b"")),
        ("an end that is missing", Some(b"if [ 1 = 1 ]; then\necho \"x\n")),
        ("garbage", Some(&garbage)),
        ("comes back", Some(b"echo \"menu 9 was here\"\n")),
        ("comes back and leaves entries", Some(b"menuentry x --id ros-A { echo y }\nset root=(hd9)\nset timeout=-1\n")),
        ("has no kernel", Some(b"linux ($root)/nothing\nboot\n")),
    ];
    for (name, menu) in menus {
        if let Some(menu) = menu {
            disk.put("grub/menu-9.cfg", menu);
        }
        disk.put("grub/grubenv", &state.to_bytes());
        let said = disk.start();
        assert!(said.contains("ros-boot: starting A (menu 0"), "{name}: {said}");
        assert_eq!(disk.state().a.left, 4, "{name}");
    }
    disk.put("grub/menu-9.cfg", b"echo \"menu 9 starts $ros_slot\"\nreboot\n");
    disk.put("grub/grubenv", &state.to_bytes());
    let said = disk.start();
    assert!(said.contains("menu 9 starts A") && !said.contains("menu 0"), "{said}");
}
