//! Pulling from and pushing to a registry that misbehaves.

mod fake;
mod layout;

use crate::patience::Clock;
use crate::pull::pull_with;
use crate::{
    CONTENT_ANNOTATION, CONTENT_INSTALLER, Inspected, Patience, PullStep, Pulled, RELEASE_ANNOTATION, RegistriesFile,
    RegistryError, push,
};
use axum::http::StatusCode;
use fake::FakeRegistry;
use serde_json::{Value, json};
use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// A clock that only waiting moves on, and what happens meanwhile.
struct Scripted<F> {
    now: Duration,
    meanwhile: F,
}

impl<F: FnMut(Duration) + Send> Scripted<F> {
    fn new(meanwhile: F) -> Self {
        Self { now: Duration::ZERO, meanwhile }
    }
}

impl<F: FnMut(Duration) + Send> Clock for Scripted<F> {
    fn now(&self) -> Duration {
        self.now
    }

    async fn sleep(&mut self, time: Duration) {
        self.now += time;
        (self.meanwhile)(self.now);
    }
}

/// A layer with files below `release/`.
fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("release/{name}"), *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Two layers: a manifest, and a root image of 3 MiB.
fn layers() -> [Vec<u8>; 2] {
    let root: Vec<u8> = (0..3u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    [layer(&[("release.json", b"{}")]), layer(&[("root.erofs", &root)])]
}

async fn pull_as(
    registry: &FakeRegistry,
    rest: &str,
    folder: &Path,
    file: &RegistriesFile,
) -> Result<Pulled, RegistryError> {
    let mut clock = Scripted::new(|_| ());
    pull_with(&registry.reference(rest), folder, file, (Patience::BRIEF, &mut clock), &mut |_| ()).await
}

async fn pull_into(registry: &FakeRegistry, rest: &str, folder: &Path) -> Result<Pulled, RegistryError> {
    pull_as(registry, rest, folder, &RegistriesFile::default()).await
}

async fn reason(registry: &FakeRegistry, rest: &str) -> &'static str {
    let folder = TempDir::new().unwrap();
    let result = pull_into(registry, rest, folder.path()).await;
    assert!(!folder.path().join("release.json").exists());
    result.unwrap_err().reason()
}

fn registries(text: &str) -> RegistriesFile {
    RegistriesFile::parse(Path::new("registries.yaml"), text.as_bytes()).unwrap()
}

/// The message with all its causes.
fn chain(error: &RegistryError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_by_digest_and_out_of_an_index() {
    let registry = FakeRegistry::start().await;
    let digest = registry.put("1", &layers());
    let entry = |architecture: &str, digest: &str| json!({"digest": digest, "platform": {"os": "linux", "architecture": architecture}});
    let other = format!("sha256:{}", "0".repeat(64));
    registry.put_manifest("index", &json!({"manifests": [entry("arm64", &other), entry("amd64", &digest)]}));
    registry.put_manifest("arm", &json!({"manifests": [entry("arm64", &other)]}));
    for rest in ["os/ros:1".to_owned(), format!("os/ros@{digest}"), "os/ros:index".to_owned()] {
        let folder = TempDir::new().unwrap();
        let mut steps = Vec::new();
        let mut tell = |step: PullStep<'_>| match step {
            PullStep::Fetched { bytes, total } => steps.push((bytes, total)),
            PullStep::Waits { error, .. } => panic!("{error}"),
        };
        let reference = registry.reference(&rest);
        let file = RegistriesFile::default();
        let pulled = crate::pull(&reference, folder.path(), &file, Patience::BRIEF, &mut tell).await.unwrap();
        assert_eq!(pulled.digest, digest);
        assert_eq!(fs::read(folder.path().join("root.erofs")).unwrap().len(), 3 << 20);
        assert!(fs::read_dir(folder.path().join(".blobs")).unwrap().next().is_none());
        let total = layers().iter().map(|layer| layer.len() as u64).sum();
        assert!(steps.is_sorted() && steps.last() == Some(&(total, total)), "{steps:?}");
    }
    assert_eq!(reason(&registry, "os/ros:arm").await, "WrongArchitecture");
    assert_eq!(reason(&registry, "os/ros:2").await, "ImageNotFound");
}

#[tokio::test]
async fn an_image_says_its_release_before_it_is_pulled() {
    let registry = FakeRegistry::start().await;
    let layer = registry.put_blob(&layer(&[("release.json", b"{}")]));
    let release = format!("sha256:{}", "5".repeat(64));
    let annotated = json!({"layers": [layer], "annotations": {RELEASE_ANNOTATION: release}});
    let digest = registry.put_manifest("1", &annotated);
    let (reference, file) = (registry.reference("os/ros:1"), RegistriesFile::default());
    let inspected = crate::inspect(&reference, &file, Patience::BRIEF, &mut |_| ()).await.unwrap();
    assert_eq!(inspected, Inspected { digest, release: Some(release), bytes: layer["size"].as_u64().unwrap() });
    assert!(registry.change(|content| content.log.iter().all(|line| !line.contains("/blobs/"))));
}

#[tokio::test]
async fn a_folder_is_used_again_and_a_strange_one_is_not() {
    let registry = FakeRegistry::start().await;
    registry.put("1", &[layer(&[("release.json", b"1"), ("release.json.sig.d/old", b"s")])]);
    registry.put("2", &[layer(&[("release.json", b"2")])]);
    let folder = TempDir::new().unwrap();
    pull_into(&registry, "os/ros:1", folder.path()).await.unwrap();
    pull_into(&registry, "os/ros:2", folder.path()).await.unwrap();
    assert_eq!(fs::read(folder.path().join("release.json")).unwrap(), b"2");
    assert!(!folder.path().join("release.json.sig.d").exists());
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("letter"), b"dear").unwrap();
    let error = pull_into(&registry, "os/ros:1", home.path()).await.unwrap_err();
    assert!(chain(&error).contains("name an empty one"), "{error:?}");
    assert!(home.path().join("letter").exists());
}

#[tokio::test]
async fn layers_of_other_content_are_not_fetched() {
    let registry = FakeRegistry::start().await;
    let mut program = registry.put_blob(&layer(&[("installer", b"x")]));
    program["annotations"] = json!({CONTENT_ANNOTATION: CONTENT_INSTALLER});
    let release = registry.put_blob(&layer(&[("release.json", b"{}")]));
    registry.put_manifest("1", &json!({"layers": [release, program]}));
    let folder = TempDir::new().unwrap();
    pull_into(&registry, "os/ros:1", folder.path()).await.unwrap();
    assert!(!folder.path().join("installer").exists());
    let asked = |layer: &Value| {
        let digest = layer["digest"].as_str().unwrap();
        registry.change(|content| content.log.iter().any(|line| line.contains(digest)))
    };
    assert!(asked(&release) && !asked(&program));
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_by_range() {
    let registry = FakeRegistry::start().await;
    let layers = layers();
    registry.put("1", &[layers[1].clone(), layers[0].clone()]);
    registry.change(|content| content.faults.cuts = vec![1_000_000, 500_000]);
    let folder = TempDir::new().unwrap();
    pull_into(&registry, "os/ros:1", folder.path()).await.unwrap();
    let ranges = registry.change(|content| content.log.iter().filter(|line| line.contains("bytes=")).count());
    assert_eq!(ranges, 2);
}

#[tokio::test]
async fn a_later_run_goes_on_where_an_earlier_one_gave_up() {
    let registry = FakeRegistry::start().await;
    let layers = layers();
    registry.put("1", &layers);
    let folder = TempDir::new().unwrap();
    // The first layer is whole, the second breaks off in every attempt.
    registry.change(|content| content.faults.cuts = vec![layers[0].len(), 1000, 0, 0]);
    assert_eq!(pull_into(&registry, "os/ros:1", folder.path()).await.unwrap_err().reason(), "RegistryUnreachable");
    registry.change(|content| content.log.clear());
    registry.change(|content| content.faults.cuts.clear());
    pull_into(&registry, "os/ros:1", folder.path()).await.unwrap();
    let blobs: Vec<String> =
        registry.change(|content| content.log.iter().filter(|line| line.contains("/blobs/")).cloned().collect());
    assert!(blobs.len() == 1 && blobs[0].ends_with("bytes=1000-"), "{blobs:?}");
}

const FIVE_MINUTES: Patience = Patience::new(Duration::from_secs(300));

#[tokio::test]
async fn a_registry_that_is_down_half_way_is_waited_for_and_goes_on_by_range() {
    let registry = FakeRegistry::start().await;
    let layers = layers();
    registry.put("1", &[layers[1].clone(), layers[0].clone()]);
    registry.change(|content| content.faults.cuts = vec![2_000_000]);
    // Down from the first failure on, for four minutes.
    let mut clock = Scripted::new(|now| {
        let unavailable = if now < Duration::from_secs(240) { usize::MAX } else { 0 };
        registry.change(|content| content.faults.unavailable = unavailable);
    });
    let (folder, mut waits) = (TempDir::new().unwrap(), Vec::new());
    let (reference, file) = (registry.reference("os/ros:1"), RegistriesFile::default());
    let mut tell = |step: PullStep<'_>| {
        if let PullStep::Waits { error, left, .. } = step {
            waits.push((error.reason(), left.as_secs()));
        }
    };
    pull_with(&reference, folder.path(), &file, (FIVE_MINUTES, &mut clock), &mut tell).await.unwrap();
    assert!((240..300).contains(&clock.now.as_secs()), "{:?}", clock.now);
    assert_eq!(&waits[..2], &[("RegistryUnreachable", 300), ("RegistryUnreachable", 299)]);
    let ranges: Vec<String> =
        registry.change(|content| content.log.iter().filter(|line| line.contains("bytes=")).cloned().collect());
    assert!(ranges.iter().all(|line| line.ends_with("bytes=2000000-")), "{ranges:?}");
}

#[tokio::test]
async fn a_registry_that_stays_down_is_given_up_in_time_and_what_came_is_kept() {
    let registry = FakeRegistry::start().await;
    let layers = layers();
    registry.put("1", &[layers[1].clone(), layers[0].clone()]);
    registry.change(|content| content.faults.cuts = vec![2_000_000]);
    let mut clock = Scripted::new(|_| registry.change(|content| content.faults.unavailable = usize::MAX));
    let folder = TempDir::new().unwrap();
    let (reference, file) = (registry.reference("os/ros:1"), RegistriesFile::default());
    let pulled = pull_with(&reference, folder.path(), &file, (FIVE_MINUTES, &mut clock), &mut |_| ()).await;
    assert_eq!((pulled.unwrap_err().reason(), clock.now.as_secs()), ("RegistryUnreachable", 300));
    registry.change(|content| {
        content.faults.unavailable = 0;
        content.log.clear();
    });
    pull_into(&registry, "os/ros:1", folder.path()).await.unwrap();
    assert!(registry.change(|content| content.log.iter().any(|line| line.ends_with("bytes=2000000-"))));
}

#[tokio::test]
async fn a_mirror_is_waited_for_where_the_registry_itself_cannot_be_reached() {
    let (mirror, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let endpoint = format!("http://{}/v2/cache", mirror.address);
    let file = registries(&format!("mirrors: {{\"{}\": {{endpoint: [\"{endpoint}\"]}}}}", registry.address));
    mirror.put("1", &layers());
    for down in [&mirror, &registry] {
        down.change(|content| content.faults.unavailable = usize::MAX);
    }
    let mut clock = Scripted::new(|_| mirror.change(|content| content.faults.unavailable = 0));
    let (reference, folder) = (registry.reference("os/ros:1"), TempDir::new().unwrap());
    pull_with(&reference, folder.path(), &file, (FIVE_MINUTES, &mut clock), &mut |_| ()).await.unwrap();
    assert_eq!(clock.now.as_secs(), 1);
    // A registry that has no such image is no registry that is down.
    mirror.change(|content| content.faults.unavailable = usize::MAX);
    registry.change(|content| content.faults.unavailable = 0);
    assert_eq!(pull_as(&registry, "os/ros:1", folder.path(), &file).await.unwrap_err().reason(), "ImageNotFound");
}

#[tokio::test]
async fn a_registry_without_ranges_begins_again() {
    let registry = FakeRegistry::start().await;
    registry.put("1", &layers());
    registry.change(|content| {
        content.faults.cuts = vec![100, 700];
        content.faults.without_ranges = true;
    });
    pull_into(&registry, "os/ros:1", TempDir::new().unwrap().path()).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again() {
    let registry = FakeRegistry::start().await;
    registry.put("1", &layers());
    registry.change(|content| content.faults.unavailable = 2);
    pull_into(&registry, "os/ros:1", TempDir::new().unwrap().path()).await.unwrap();
    registry.change(|content| content.faults.unavailable = 100);
    assert_eq!(reason(&registry, "os/ros:1").await, "RegistryUnreachable");
}

#[tokio::test]
async fn wrong_bytes_have_their_reasons() {
    let registry = FakeRegistry::start().await;
    registry.put("1", &layers());
    let with = |change: fn(&mut fake::Faults)| {
        registry.change(|content| {
            content.faults = fake::Faults::default();
            change(&mut content.faults);
        })
    };
    with(|faults| faults.damaged = true);
    assert_eq!(reason(&registry, "os/ros:1").await, "LayerDigestMismatch");
    with(|faults| faults.longer = 1);
    assert_eq!(reason(&registry, "os/ros:1").await, "LayerDigestMismatch");
    with(|faults| faults.shorter = 1);
    assert_eq!(reason(&registry, "os/ros:1").await, "LayerTruncated");
    with(|_| ());
    let manifest = registry.change(|content| content.manifests["1"].clone());
    let digest = format!("sha256:{}", "1".repeat(64));
    registry.change(|content| content.manifests.insert(digest.clone(), manifest));
    assert_eq!(reason(&registry, &format!("os/ros@{digest}")).await, "LayerDigestMismatch");
}

#[tokio::test]
async fn what_is_no_release_or_too_large_is_not_unpacked() {
    let registry = FakeRegistry::start().await;
    registry.put("1", &[layer(&[("initrd", b"x")])]);
    assert_eq!(reason(&registry, "os/ros:1").await, "NotARelease");
    let mut huge = registry.put_blob(b"x");
    huge["size"] = json!(9u64 << 30);
    registry.put_manifest("huge", &json!({"layers": [huge]}));
    assert_eq!(reason(&registry, "os/ros:huge").await, "ImageTooLarge");
    registry.put_manifest("long", &json!({"layers": [], "x": " ".repeat(5 << 20)}));
    assert_eq!(reason(&registry, "os/ros:long").await, "ImageTooLarge");
}

#[tokio::test]
async fn tokens_are_fetched_renewed_and_refused() {
    let registry = FakeRegistry::start().await;
    registry.put("1", &layers());
    registry.change(|content| {
        content.login = Some(("reader".into(), "hunter2".into()));
        content.requests_for_a_token = 1;
    });
    let login = |password: &str| {
        let address = registry.address;
        registries(&format!("configs: {{\"{address}\": {{auth: {{username: reader, password: {password}}}}}}}"))
    };
    let folder = TempDir::new().unwrap();
    pull_as(&registry, "os/ros:1", folder.path(), &login("hunter2")).await.unwrap();
    for file in [login("hunter3"), RegistriesFile::default()] {
        let error = pull_as(&registry, "os/ros:1", folder.path(), &file).await.unwrap_err();
        assert_eq!(error.reason(), "RegistryDenied");
        let shown = format!("{} {file:?}", chain(&error));
        assert!(shown.contains("who are you?") && !shown.contains("hunter"), "{shown}");
    }
    registry.change(|content| content.login = None);
    registry.change(|content| content.status = Some(StatusCode::FORBIDDEN));
    assert_eq!(reason(&registry, "os/ros:1").await, "RegistryDenied");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let (mirror, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let file = registries(&format!(
        "mirrors: {{\"{}\": {{endpoint: [\"http://{}/v2/cache\"]}}}}",
        registry.address, mirror.address
    ));
    let asked = |registry: &FakeRegistry| registry.change(|content| std::mem::take(&mut content.log));
    // The mirror has nothing.
    registry.put("1", &layers());
    let folder = TempDir::new().unwrap();
    pull_as(&registry, "os/ros:1", folder.path(), &file).await.unwrap();
    assert!(asked(&mirror).iter().any(|line| line.ends_with("/v2/cache/os/ros/manifests/1")));
    // The mirror has everything: the registry is not asked.
    mirror.put("1", &layers());
    asked(&registry);
    pull_as(&registry, "os/ros:1", folder.path(), &file).await.unwrap();
    assert!(asked(&registry).is_empty());
    // The mirror loses a layer.
    mirror.change(|content| content.blobs.clear());
    pull_as(&registry, "os/ros:1", folder.path(), &file).await.unwrap();
    assert!(asked(&registry).iter().any(|line| line.contains("/v2/os/ros/blobs/")));
}

#[tokio::test]
async fn a_registry_that_is_down_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = FakeRegistry::at(listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(reason(&registry, "os/ros:1").await, "RegistryUnreachable");
}

#[tokio::test]
async fn plain_http_is_told_from_a_registry_that_is_down() {
    let registry = FakeRegistry::start().await;
    let file = registries(&format!("configs: {{\"{}\": {{tls: {{}}}}}}", registry.address));
    let error = pull_as(&registry, "os/ros:1", TempDir::new().unwrap().path(), &file).await.unwrap_err();
    assert_eq!(error.reason(), "PlainHttpRefused", "{}", chain(&error));
}

/// Serves a registry by HTTPS, with a certificate that is valid in these years; returns it, and the certificate in PEM.
async fn with_tls(valid: Range<i32>) -> (FakeRegistry, String) {
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(valid.start, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(valid.end, 1, 1);
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let cert = parameters.self_signed(&signing_key).unwrap();
    let pem = cert.pem();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = FakeRegistry::at(listener.local_addr().unwrap());
    let router = registry.router();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(router);
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    (registry, pem)
}

#[tokio::test]
async fn a_certificate_is_trusted_when_its_authority_is_named() {
    let (registry, pem) = with_tls(1975..4096).await;
    registry.put("1", &layers());
    let folder = TempDir::new().unwrap();
    let authority = folder.path().join("ca.pem");
    fs::write(&authority, pem).unwrap();
    let pulled = async |tls: &str| {
        let file = registries(&format!("configs: {{\"{}\": {{tls: {{{tls}}}}}}}", registry.address));
        pull_as(&registry, "os/ros:1", &folder.path().join("image"), &file).await
    };
    let error = pulled("").await.unwrap_err();
    assert_eq!(error.reason(), "CertificateNotTrusted", "{}", chain(&error));
    assert!(error.to_string().contains("tls.ca_file"), "{error}");
    pulled(&format!("ca_file: {}", authority.display())).await.unwrap();
    pulled("insecure_skip_verify: true").await.unwrap();
}

/// As a machine sees it whose clock is wrong by years.
#[tokio::test]
async fn a_certificate_that_is_not_valid_by_the_clock_has_its_own_reason() {
    for valid in [1975..1990, 2100..4096] {
        let (registry, pem) = with_tls(valid).await;
        let folder = TempDir::new().unwrap();
        let authority = folder.path().join("ca.pem");
        fs::write(&authority, pem).unwrap();
        let file = registries(&format!(
            "configs: {{\"{}\": {{tls: {{ca_file: {}}}}}}}",
            registry.address,
            authority.display()
        ));
        let error = pull_as(&registry, "os/ros:1", &folder.path().join("image"), &file).await.unwrap_err();
        assert_eq!(error.reason(), "CertificateNotValidNow", "{}", chain(&error));
        assert!(error.to_string().contains("clock"), "{error}");
    }
}

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let registry = FakeRegistry::start().await;
    registry.change(|content| content.login = Some(("writer".into(), "hunter2".into())));
    let address = registry.address;
    let file = registries(&format!("configs: {{\"{address}\": {{auth: {{username: writer, password: hunter2}}}}}}"));
    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("image.tar");
    let digest = write_archive(&archive, &layers());
    let reference = registry.reference("os/ros:1");
    let steps = Arc::new(Mutex::new(Vec::new()));
    let kept = steps.clone();
    let progress = Arc::new(move |sent, total| kept.lock().unwrap().push((sent, total)));
    assert_eq!(push(&archive, &reference, &file, progress.clone()).await.unwrap().digest, digest);
    let steps = steps.lock().unwrap().clone();
    assert!(steps.is_sorted() && steps.last().is_some_and(|(sent, total)| sent == total), "{steps:?}");
    assert_eq!(pull_as(&registry, "os/ros:1", &folder.path().join("image"), &file).await.unwrap().digest, digest);
    // What is there is not sent again.
    registry.change(|content| content.log.clear());
    push(&archive, &reference, &file, progress.clone()).await.unwrap();
    let posts = registry.change(|content| content.log.iter().filter(|line| line.starts_with("POST")).count());
    assert_eq!(posts, 0);
    let other = registry.reference(&format!("os/ros@sha256:{}", "0".repeat(64)));
    assert_eq!(push(&archive, &other, &file, progress.clone()).await.unwrap_err().reason(), "ReferenceInvalid");
    let anonymous = push(&archive, &reference, &RegistriesFile::default(), progress.clone()).await;
    assert_eq!(anonymous.unwrap_err().reason(), "RegistryDenied");
    fs::write(&archive, b"no archive").unwrap();
    let refused = push(&archive, &reference, &file, progress).await.unwrap_err();
    assert_eq!(refused.reason(), "ArchiveInvalid");
}

/// Writes an image layout with uncompressed layers; returns the digest of the manifest.
fn write_archive(path: &Path, layers: &[Vec<u8>]) -> String {
    use crate::digest::Digest;
    let mut blobs = vec![b"{}".to_vec()];
    blobs.extend(layers.iter().cloned());
    let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "config": descriptor("config.v1+json", &blobs[0]),
        "layers": layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect::<Vec<_>>(),
    }))
    .unwrap();
    let index = json!({"manifests": [descriptor("manifest.v1+json", &manifest)]}).to_string();
    let digest = Digest::of(&manifest).to_string();
    blobs.push(manifest);
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    append("index.json", index.as_bytes());
    for blob in &blobs {
        append(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    }
    digest
}
