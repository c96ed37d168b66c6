//! Tests of the harness and of virtual machines, without any program of this project.

use harness::clusters::cluster::{Cluster, Controllers};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use qemu::accelerator::Accelerator;
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::machine::{Machine, MachineSpec};
use qemu::paths;
use qemu::scratch::Scratch;
use qemu::swtpm::{EkCertificate, Tpm};
use std::process::Command;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn objects_outlive_a_restart_of_the_api_server() {
    let scratch = Scratch::new("harness-api-server").unwrap();
    let mut cluster = Cluster::start(scratch.path(), Controllers::Running).await.unwrap();
    cluster.kubectl(&["create", "namespace", "fleet-default"], "").unwrap();

    cluster.stop_api_server();
    let namespaces: Api<Namespace> = Api::all(cluster.client().await.unwrap());
    assert!(namespaces.get("fleet-default").await.is_err(), "the API server answers although it is down");

    cluster.start_api_server().await.unwrap();
    namespaces.get("fleet-default").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_answers_programs_and_holds_its_certificate() {
    let scratch = Scratch::new("harness-tpm").unwrap();
    let tpm = Tpm::for_programs(scratch.path(), EkCertificate::Present).await.unwrap();
    // Index of the RSA-2048 certificate: TCG EK Credential Profile, section 2.2.1.4.
    let output = Command::new("tpm2_nvread").args(["--tcti", &tpm.tcti(), "0x01c00002"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout[0], 0x30, "a DER sequence");
    assert_eq!(tpm.issuers().unwrap().matches("BEGIN CERTIFICATE").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_firmware_starts_again_after_a_power_cut() {
    let scratch = Scratch::new("harness-machine").unwrap();
    let mut spec = MachineSpec::new(Firmware::Uefi, "HARNESS-1");
    spec.disks.push(Disk::empty(scratch.path(), "root", GIB).unwrap());
    let mut machine = Machine::assemble(scratch.path(), spec).await.unwrap();
    for _ in 0..2 {
        machine.power_on().await.unwrap();
        // OVMF ends there when nothing can be booted.
        machine.console().wait_for_text("UEFI Interactive Shell", Duration::from_secs(120)).await.unwrap();
        machine.cut_power();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_what_shows_that_kvm_works_is_seen_where_a_machine_runs() {
    let boots = || Accelerator::Tcg.boots(&paths::kernel(), Duration::from_secs(180));
    assert!(tokio::task::spawn_blocking(boots).await.unwrap().unwrap());
}
