//! Tests of `server::routes::boot`.

use super::*;
use crate::context::Context;
use crate::fixtures::{self, BOOT_TOKEN, FakeApi};
use crate::server::{Admission, boot_router};
use ::media::network_set::MEDIUM_ARCHIVE;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

const TOKEN: &str = "tttttttttttttttttttttttttttttttttttttttttttttttttttttt";

async fn state(spec: Value) -> (ServerState, TempDir) {
    let (store, folder) = fixtures::media_store("ros.iso", 1).await;
    let context = Context { media: store, ..fixtures::context(&FakeApi::default()) };
    context.registrations.apply(&Event::Apply(fixtures::registration(spec, TOKEN)));
    (ServerState::new(Arc::new(context), Admission::new(1).0), folder)
}

async fn get(state: &ServerState, path: &str) -> (StatusCode, Vec<u8>) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = boot_router(state.clone()).oneshot(request).await.unwrap();
    (response.status(), fixtures::received(response.into_body()).await.unwrap())
}

#[tokio::test]
async fn the_script_leads_to_every_file_and_no_path_to_a_kernel_has_a_token() {
    let (state, _folder) = state(json!({})).await;
    let (status, script) = get(&state, &format!("/boot/{BOOT_TOKEN}/ros.iso/boot.ipxe")).await;
    let script = String::from_utf8(script.to_vec()).unwrap();
    assert_eq!(status, StatusCode::OK, "{script}");
    assert!(!script.contains(BOOT_TOKEN) && !script.contains(TOKEN) && script.contains("console=tty0"), "{script}");
    let files = script.lines().filter_map(|line| line.split(' ').nth(1).filter(|file| file.starts_with('/')));
    let files: Vec<&str> = files.collect();
    assert_eq!(files.len(), 3, "{script}");
    for (file, begin) in files.into_iter().zip([&b"kkkk"[..], b"initrd", b"070701"]) {
        let (status, content) = get(&state, file).await;
        assert!(status == StatusCode::OK && content.starts_with(begin), "{file}: {status}");
    }
    let (_, menu) = get(&state, &format!("/boot/{BOOT_TOKEN}/ros.iso/grub.cfg")).await;
    let menu = String::from_utf8(menu.to_vec()).unwrap();
    assert!(menu.contains("linux /boot-files/") && !menu.contains(BOOT_TOKEN) && !menu.contains(TOKEN), "{menu}");
    let (_, start) = get(&state, "/grub/grub.cfg").await;
    assert!(String::from_utf8_lossy(&start).contains("configfile $fw_path/grub.cfg"));
    for (loader, content) in
        [("/shimx64.efi", &b"shim"[..]), ("//grubx64.efi", b"network grub"), ("/mmx64.efi", b"mok")]
    {
        assert_eq!(get(&state, &format!("/boot/{BOOT_TOKEN}/ros.iso{loader}")).await.1, content, "{loader}");
    }
    let (_, own) = get(&state, &format!("/boot/{BOOT_TOKEN}/ros.iso/registration.cpio")).await;
    let own = String::from_utf8_lossy(&own);
    assert!(own.contains("medium/registration.yaml") && own.contains(TOKEN), "{own}");
}

#[tokio::test]
async fn nobody_gets_the_settings_without_the_boot_token() {
    let (open, _folder) = state(json!({})).await;
    let stranger = BOOT_TOKEN.replace('b', "u");
    for (path, code) in [
        (format!("/boot/{TOKEN}/ros.iso/registration.cpio"), RefusalCode::UnknownToken),
        (format!("/boot/{stranger}/ros.iso/registration.cpio"), RefusalCode::UnknownToken),
        ("/boot/short/ros.iso/boot.ipxe".to_owned(), RefusalCode::MalformedToken),
        (format!("/boot/{BOOT_TOKEN}/other.iso/boot.ipxe"), RefusalCode::UnknownMedium),
        (format!("/boot/{BOOT_TOKEN}/ros.iso/revocations_sku.efi"), RefusalCode::UnknownMedium),
        (format!("/boot-files/0123456789abcdef/{MEDIUM_ARCHIVE}"), RefusalCode::UnknownMedium),
        (format!("/boot-files//{MEDIUM_ARCHIVE}"), RefusalCode::UnknownMedium),
    ] {
        let (_, body) = get(&open, &path).await;
        let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(refusal.code, code, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains(&stranger), "{path}");
    }
    let (expired, _folder) = state(json!({"expiresAt": "2020-01-01T00:00:00Z"})).await;
    let (_, body) = get(&expired, &format!("/boot/{BOOT_TOKEN}/ros.iso/registration.cpio")).await;
    assert_eq!(serde_json::from_slice::<Refusal>(&body).unwrap().code, RefusalCode::RegistrationExpired);
}

#[tokio::test]
async fn the_listener_serves_nothing_else() {
    let (state, _folder) = state(json!({})).await;
    for path in [
        format!("/v1-rancheros/registration/{TOKEN}"),
        format!("/v1-rancheros/media/{TOKEN}/ros.iso"),
        "/cacerts".to_owned(),
        "/metrics".to_owned(),
        "/".to_owned(),
    ] {
        assert_eq!(get(&state, &path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}
