//! The operator's image: its content, its program alone in a chroot, and its program in a container runtime.

use anyhow::{Context, Result, ensure};
use api::MachineRegistration;
use aws_lc_rs::digest::{SHA256, digest};
use harness::clusters::cluster::{Cluster, Controllers};
use harness::clusters::container::Container;
use harness::clusters::operator::install_definitions;
use harness::clusters::registration::Registration;
use harness::objects::kubectl_kind;
use qemu::paths;
use qemu::port::Port;
use qemu::process::printed;
use qemu::scratch::Scratch;
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[test]
fn it_holds_what_it_says_and_its_program_runs_in_it_alone() {
    let scratch = Scratch::new("operator-image").unwrap();
    let image = build(&scratch.folder("image").unwrap()).unwrap();
    let again = build(&scratch.folder("again").unwrap()).unwrap();
    assert!(fs::read(&image).unwrap() == fs::read(again).unwrap(), "the same inputs give the same bytes");

    let layout = scratch.folder("layout").unwrap();
    unpack(&image, &layout).unwrap();
    let index = json_file(&layout.join("index.json")).unwrap();
    let manifest = json_file(&blob(&layout, &index["manifests"][0]).unwrap()).unwrap();
    let config = json_file(&blob(&layout, &manifest["config"]).unwrap()).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/ros-operator"]));
    let [layer] = &manifest["layers"].as_array().unwrap()[..] else { panic!("one layer") };

    let root = scratch.folder("root").unwrap();
    unpack(&blob(&layout, layer).unwrap(), &root).unwrap();
    let vendors = fs::read_to_string(root.join("usr/share/ros-operator/tpm-vendors.pem")).unwrap();
    assert!(vendors.matches("BEGIN CERTIFICATE").count() >= 20, "{vendors}");
    // Paths that the container's user could write to if the root file system were writable.
    let writable = writable_by_others(&root).unwrap();
    assert_eq!(writable, [root.join("tmp")]);
    // In a chroot of the layer alone, as the container's user.
    let output = Command::new("chroot")
        .args(["--userspec=65532:65532"])
        .arg(&root)
        .args(["/usr/bin/ros-operator", "crd"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains(&kubectl_kind::<MachineRegistration>()), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runtime_runs_it_with_no_rights_and_nothing_to_write_to() {
    let scratch = Scratch::new("operator-container").unwrap();
    let image = build(&scratch.folder("image").unwrap()).unwrap();
    let layout = scratch.folder("layout").unwrap();
    unpack(&image, &layout).unwrap();
    let container = Container::unpack(&layout, "0.1.0", &scratch.folder("container").unwrap()).unwrap();
    let version = container.run(&["--version"]).unwrap();
    assert_eq!(printed(&version), "ros-operator 0.1.0\n");
    let definitions = container.run(&["crd"]).unwrap();
    assert!(printed(&definitions).contains(&kubectl_kind::<MachineRegistration>()), "{}", printed(&definitions));

    // The image contains the roots of TPM vendors. The program reads them first.
    let without = container.run(&["run", "--tpm-vendors", "/etc/passwd"]).unwrap();
    assert!(printed(&without).contains("contains no certificate"), "{}", printed(&without));

    // As it runs in a cluster.
    let cluster = Cluster::start(&scratch.folder("cluster").unwrap(), Controllers::Absent).await.unwrap();
    install_definitions(&cluster).unwrap();
    let mounted = scratch.folder("kube").unwrap();
    fs::copy(cluster.kubeconfig(), mounted.join("config")).unwrap();
    fs::set_permissions(mounted.join("config"), fs::Permissions::from_mode(0o444)).unwrap();
    container.mount(&mounted, "/kube").unwrap();
    let port = Port::reserve().unwrap();
    let url = format!("https://127.0.0.1:{}", port.number());
    let listen = format!("127.0.0.1:{}", port.number());
    let environment = [("KUBECONFIG", "/kube/config"), ("ROS_SERVER_URL", url.as_str())];
    let log = scratch.path().join("container.log");
    let mut operator = container.start(&["run", "--listen", &listen], &environment, &log).unwrap();
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    until("the container's /readyz", Duration::from_secs(60), async || {
        operator.check_running()?;
        let answer = client.get(format!("{url}/readyz")).send().await;
        Ok(match answer.and_then(reqwest::Response::error_for_status) {
            Ok(_) => Poll::Ready(()),
            Err(error) => Poll::Pending(format!("{error:?}")),
        })
    })
    .await
    .unwrap();
    let status = container.proc("status").unwrap();
    for line in
        ["Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
    let mounts = container.proc("mountinfo").unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(root.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro"), "{root}");
    let registration = Registration::apply(&cluster, "edge", json!({})).unwrap();
    assert!(registration.url.starts_with(&url), "{}", registration.url);

    assert!(operator.output().contains("authorities of TPM vendors"), "{}", operator.output());

    // SIGTERM ends it in an orderly way.
    operator.terminate().unwrap();
    let status = operator.wait(Duration::from_secs(30)).await.unwrap();
    assert!(status.success(), "{}", operator.output());
}

fn build(output: &Path) -> Result<PathBuf> {
    let made = Command::new(paths::program("ros-image")?)
        .args(["operator", "--version", "0.1.0", "--operator"])
        .arg(paths::program("ros-operator")?)
        .arg("--output")
        .arg(output)
        .output()
        .context("running ros-image operator")?;
    ensure!(made.status.success(), "ros-image operator: {}", String::from_utf8_lossy(&made.stderr));
    Ok(output.join("rancheros-operator-0.1.0.tar"))
}

fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let output = Command::new("tar").arg("-xpf").arg(archive).arg("-C").arg(folder).output().context("running tar")?;
    ensure!(output.status.success(), "unpacking: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The file of a descriptor. Checks digest and size.
fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf> {
    let named = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let named = named.context("a descriptor without a digest")?;
    let path = layout.join("blobs/sha256").join(named);
    let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(hex::encode(digest(&SHA256, &content)) == named, "{} has another digest", path.display());
    ensure!(descriptor["size"] == content.len(), "{} has another size than {descriptor}", path.display());
    Ok(path)
}

fn json_file(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
}

fn writable_by_others(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        let metadata = path.symlink_metadata()?;
        if metadata.is_symlink() {
            continue;
        }
        if metadata.permissions().mode() & 0o002 != 0 || metadata.uid() != 0 {
            found.push(path.clone());
        }
        if metadata.is_dir() {
            found.extend(writable_by_others(&path)?);
        }
    }
    Ok(found)
}
