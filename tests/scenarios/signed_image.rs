//! `ros-image build` with options: a release with its signature, as other tools check it, and with arguments for the kernel.

use harness::image_build;
use qemu::paths;
use qemu::process::{printed, succeeded};
use qemu::scratch::Scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "0.1.0";

#[test]
fn iso_and_release_carry_the_signature_and_the_kernel_arguments() {
    let scratch = Scratch::new("signed-image").unwrap();
    let [keys, others, output] = ["keys", "others", "image"].map(|name| scratch.path().join(name));
    for folder in [&keys, &others] {
        succeeded(ros_image().args(["keygen", "--output"]).arg(folder)).unwrap();
    }
    let [public, other] = [&keys, &others].map(|folder| folder.join("public.pem"));
    let mut build = image_build::command(VERSION, &output).unwrap();
    build.arg("--overlay").arg(paths::workspace().join("overlay")).arg("--sign").arg(keys.join("private.pem"));
    build.args(["--kernel-argument", "iommu=pt", "--console", "ttyS1,115200"]);
    succeeded(&mut build).unwrap();

    let release = output.join("release");
    let [signature] = <[_; 1]>::try_from(files(&release.join("release.json.sig.d"))).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-verify"]).arg(&public).arg("-signature").arg(&signature);
    assert!(succeeded(openssl.arg(release.join("release.json"))).unwrap().contains("Verified OK"));

    let iso = output.join(format!("ros-{VERSION}-{}.iso", std::env::consts::ARCH));
    let id = signature.file_name().unwrap().to_str().unwrap();
    let verify = |key: &Path| ros_image().arg("verify").arg(&iso).arg("--release-key").arg(key).output().unwrap();
    assert!(printed(&verify(&public)).contains(&format!("signed by {id}")));
    assert_eq!(verify(&other).status.code(), Some(1), "it was not signed by this key");

    let shown = succeeded(ros_image().arg("show").arg(&iso).arg("--json")).unwrap();
    let script = fs::read_to_string(output.join("pxe/boot.ipxe")).unwrap();
    for text in [&shown, &script] {
        let own = text.contains("console=ttyS1,115200 ") && text.contains(" iommu=pt");
        assert!(own && !text.contains("console=tty0"), "{text}");
    }
}

fn ros_image() -> Command {
    Command::new(paths::program("ros-image").unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}
