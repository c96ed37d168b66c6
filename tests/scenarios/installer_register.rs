//! `ros-installer register` as a person at a console uses it, with a running operator and a new TPM.

use api::{MachineRegistration, condition_type, reason};
use harness::clients::installer::InstallerProcess;
use harness::clusters::certificates::Authority;
use harness::clusters::registration::NAMESPACE;
use harness::fakes::chroot::Chroot;
use harness::fakes::http_proxy::{HttpProxy, PASSWORD};
use harness::objects::{condition, kubectl_name};
use harness::world::World;
use qemu::process::{Process, printed};
use qemu::wait::{Poll, until};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn the_installer_registers_its_machine_and_prints_the_configuration() {
    let world = World::start("installer-registers", json!({"cloudConfig": {"hostname": "edge-1"}})).await.unwrap();
    let host = InstallerProcess::with_tpm(&world).await.unwrap();
    let output = host.register(&world.url().unwrap(), &["--output", "json"]).unwrap();
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["cloudConfig"]["hostname"], "edge-1");

    let [inventory] = &world.inventories().unwrap()[..] else { panic!("one machine, one inventory") };
    let hash = host.run(&["tpm-hash"]).unwrap();
    assert_eq!(inventory["spec"]["tpmHash"], String::from_utf8_lossy(&hash.stdout).trim());
    assert_eq!(inventory["status"]["hardware"]["tpm"]["manufacturer"], "IBM");
    let debug = host.register(&world.url().unwrap(), &["--debug"]).unwrap();
    let token = world.url().unwrap().rsplit('/').next().unwrap().to_owned();
    assert!(!String::from_utf8_lossy(&debug.stderr).contains(&token), "the token was logged");
}

/// Three attempts take about a minute; see `Backoff::remote`.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_down_for_a_minute_is_waited_for_and_registered_with() {
    const MINUTES: Duration = Duration::from_secs(180);
    let mut world = World::start("installer-waits", json!({})).await.unwrap();
    let host = InstallerProcess::with_tpm(&world).await.unwrap();
    let url = world.url().unwrap();
    world.operator.stop();

    let ca = host.authority.to_str().unwrap();
    let mut command = host.command(&["register", "--registration-url", &url, "--registration-ca-cert", ca]).unwrap();
    let mut installer = Process::start(&mut command, &world.path().join("installer.log")).unwrap();
    until("three attempts in vain", MINUTES, async || {
        installer.check_running()?;
        let said = installer.output();
        Ok(if said.matches("next attempt in").count() >= 3 { Poll::Ready(()) } else { Poll::Pending(said) })
    })
    .await
    .unwrap();
    world.operator.resume().await.unwrap();

    let status = installer.wait(MINUTES).await.unwrap();
    let said = installer.output();
    assert!(status.success(), "{said}");
    for expected in ["connecting to 127.0.0.1", "Connection refused", "that the operator runs"] {
        assert!(said.contains(expected), "no {expected:?} in {said}");
    }
    assert_eq!(world.inventories().unwrap().len(), 1);
}

/// The operator's address is that of QEMU's network, so that nobody reaches it without the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_a_password_leads_to_the_operator() {
    let world = World::start("installer-proxy", json!({})).await.unwrap();
    let host = InstallerProcess::with_tpm(&world).await.unwrap();
    let url = &world.registration().url;
    let proxy = HttpProxy::start().unwrap();
    let register = |password: &str, except: &str| {
        let settings = [format!("proxy={}", proxy.url(password)), format!("noProxy={except}")];
        host.register(url, &["--debug", "--set", &settings[0], "--set", &settings[1]]).unwrap()
    };
    let output = register(PASSWORD, "192.168.0.0/16");
    let said = printed(&output);
    assert!(output.status.success() && !said.contains(PASSWORD), "{said}");
    let operator = world.operator.url().trim_start_matches("https://").to_owned();
    assert_eq!(proxy.connected(), [operator]);
    assert_eq!(world.inventories().unwrap().len(), 1);

    let said = printed(&register("wr0ng", ""));
    for expected in ["through the proxy 127.0.0.1:", "authorization", "check proxy and noProxy"] {
        assert!(said.contains(expected), "no {expected:?} in {said}");
    }
    assert!(!said.contains("wr0ng"), "{said}");
    let output = host.register(url, &["--set", "proxy=socks5://me:wr0ng@proxy"]).unwrap();
    let said = printed(&output);
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.contains("proxy, from the command line, must be http://") && !said.contains("wr0ng"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fits_into_a_message_arrives_byte_for_byte() {
    let line = "\u{e4}\u{f6}\u{fc} 'single' \"double\" # no comment: {no: mapping} [x] \\ \t|\n  indented, and some more text\n";
    let mut content = line.repeat(200 * 1024 / line.len());
    content.push_str(&"x".repeat(200 * 1024 - content.len()));
    let spec = json!({"cloudConfig": {"write_files": [{"path": "/srv/large", "content": content}]}});
    let world = World::start("installer-large-file", spec).await.unwrap();
    let output = InstallerProcess::with_tpm(&world).await.unwrap().register(&world.url().unwrap(), &[]).unwrap();
    assert!(output.status.success(), "{}", printed(&output));

    let machine = Chroot::new(world.folder("machine").unwrap()).unwrap();
    machine.write("/oem/cloud-config.yaml", &output.stdout).unwrap();
    let applied = machine.run("ros-installer", &["apply"]).unwrap();
    // The hostname belongs to the kernel, so it cannot be set in a chroot.
    let mut refused =
        printed(&applied).lines().filter(|line| line.contains("not applied")).map(str::to_owned).collect::<Vec<_>>();
    refused.retain(|line| !line.contains("hostname"));
    assert!(applied.status.success() && refused.is_empty(), "{}", printed(&applied));
    assert!(std::fs::read_to_string(machine.path("/srv/large")).unwrap() == content, "the file differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fits_into_no_message_is_named_at_both_ends() {
    let spec = json!({"cloudConfig": {"write_files": [{"path": "/srv/huge", "content": "x".repeat(1 << 20)}]}});
    let world = World::start("installer-huge-file", spec).await.unwrap();
    let refused = InstallerProcess::with_tpm(&world).await.unwrap().register(&world.url().unwrap(), &[]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "who keeps asking gets it once the registration is corrected");
    let registration = world.cluster.get(&kubectl_name::<MachineRegistration>("edge"), NAMESPACE).unwrap();
    let ready = condition(&registration, condition_type::READY);
    assert!(ready["reason"] == reason::CLOUD_CONFIG_TOO_LARGE && ready["status"] == "False", "{ready}");
    for end in [printed(&refused), ready.to_string()] {
        for expected in ["spec.cloudConfig has 10486", "the limit is 2", "write_files"] {
            assert!(end.contains(expected), "no {expected:?} in {end}");
        }
    }
    assert!(printed(&refused).contains("RegistrationInvalid"), "{}", printed(&refused));
    assert_eq!(world.inventories().unwrap(), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_has_its_own_exit_status() {
    let world = World::start("installer-refused", json!({})).await.unwrap();
    let mut host = InstallerProcess::with_tpm(&world).await.unwrap();
    let url = world.url().unwrap();
    let (base, _) = url.rsplit_once('/').unwrap();

    let unknown = host.register(&format!("{base}/{}", "a".repeat(54)), &[]).unwrap();
    assert_eq!(unknown.status.code(), Some(10));
    assert!(
        printed(&unknown).contains("UnknownToken") && printed(&unknown).contains("create a new medium"),
        "{}",
        printed(&unknown)
    );

    let malformed = host.register(&format!("{base}/x"), &[]).unwrap();
    assert_eq!(malformed.status.code(), Some(10));
    assert!(printed(&malformed).contains("MalformedToken"), "{}", printed(&malformed));

    let absent = host.register(&url, &["--tcti", "device:/nonexistent/tpmrm0"]).unwrap();
    assert_eq!(absent.status.code(), Some(12));
    assert!(printed(&absent).contains("enable the TPM"), "{}", printed(&absent));

    std::fs::write(&host.authority, Authority::new("somebody else").unwrap().certificate()).unwrap();
    let foreign = host.register(&url, &[]).unwrap();
    assert_eq!(foreign.status.code(), Some(1));
    assert!(printed(&foreign).contains("is not from the pinned authority"), "{}", printed(&foreign));

    host.authority = PathBuf::from("/nonexistent/ca.pem");
    assert_eq!(host.register(&url, &[]).unwrap().status.code(), Some(11));
}
