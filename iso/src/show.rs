//! Shows the content of an ISO or a disk image: release, and registration settings without secrets.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result};
use cloud_config::CloudConfig;
use disk::layout::Size;
use media::disk_image::DiskImage;
use media::iso9660::Volume;
use media::{manifest, reserved_space};
use release::ReleaseManifest;
use release::signature::KeyId;
use serde::Serialize;
use serde_json::Value;

use crate::build::signed_by;
use crate::cli::ShowOptions;
use crate::progress;

/// Path of the signatures on the medium.
pub const SIGNATURES: &str = "/release/release.json.sig.d";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownIso {
    volume_id: String,
    release: ReleaseManifest,
    /// The keys after which its signatures are named. They are not checked.
    signed_by: Vec<KeyId>,
    /// The settings, with everything that may be secret masked.
    registration: Option<CloudConfig>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownDiskImage {
    version: String,
    disk_bytes: u64,
    /// The settings, with everything that may be secret masked.
    registration: Option<CloudConfig>,
}

pub fn run(options: &ShowOptions) -> Result<()> {
    let path = options.medium.display();
    let mut medium = File::open(&options.medium).with_context(|| format!("opening {path}"))?;
    let image = DiskImage::open(&mut medium).with_context(|| format!("reading {path}"))?;
    match image {
        Some(image) => show_disk_image(medium, image, options.json).with_context(|| format!("reading {path}")),
        None => show_iso(medium, options.json).with_context(|| format!("reading {path}")),
    }
}

fn show_iso(medium: File, json: bool) -> Result<()> {
    let shown = inspect(medium)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(());
    }
    println!("volume        {}", shown.volume_id);
    println!("release       {} ({})", shown.release.version, shown.release.architecture);
    println!("root image    {}", progress::megabytes(shown.release.root.size));
    println!("root hash     {}", shown.release.verity.root_hash);
    println!("signatures    {} (not checked; `ros-image verify --release-key` does)", signed_by(&shown.signed_by));
    print_registration(shown.registration.as_ref(), "the installer will ask on the console");
    Ok(())
}

fn show_disk_image(mut medium: File, image: DiskImage, json: bool) -> Result<()> {
    let mut settings = vec![0; image.settings.size as usize];
    medium.seek(SeekFrom::Start(image.settings.offset)).and_then(|_| medium.read_exact(&mut settings))?;
    let DiskImage { version, disk_bytes, .. } = image;
    let shown = ShownDiskImage { version, disk_bytes, registration: registration(&settings)? };
    if json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(());
    }
    println!("release       {}", shown.version);
    println!("disk          {}", Size(shown.disk_bytes));
    print_registration(shown.registration.as_ref(), "the machine will start without a configuration");
    Ok(())
}

fn print_registration(registration: Option<&CloudConfig>, without: &str) {
    match registration {
        None => println!("registration  none: {without}"),
        Some(config) => println!("registration\n{}", config.to_yaml().trim_end()),
    }
}

/// The settings in a reserved space, with everything that may be secret masked.
fn registration(reserved: &[u8]) -> Result<Option<CloudConfig>> {
    Ok(reserved_space::read(reserved)?.map(|mut config| {
        config.0.iter_mut().for_each(|(key, value)| mask(key, value));
        config
    }))
}

/// The keys after which the signatures on a medium are named, in order.
pub fn signers(volume: &mut Volume<impl Read + Seek>) -> Result<Vec<KeyId>> {
    let names = volume.files(SIGNATURES).context("looking for the release's signatures")?.unwrap_or_default();
    let mut signers: Vec<KeyId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    signers.sort();
    Ok(signers)
}

fn inspect(iso: impl Read + Seek) -> Result<ShownIso> {
    let mut volume = Volume::open(iso)?;
    let (release, _) = manifest::read(&mut volume)?;
    let signed_by = signers(&mut volume)?;
    let settings = volume.read(reserved_space::PATH, reserved_space::RESERVED_BYTES as u64)?;
    Ok(ShownIso { volume_id: volume.id, release, signed_by, registration: registration(&settings)? })
}

/// Masks values whose key says that they are secret, the token at the end of a registration URL, and user and password of a
/// proxy.
fn mask(key: &str, value: &mut Value) {
    const SECRET: &[&str] = &["token", "password", "passwd", "secret", "key"];
    match value {
        Value::Object(entries) => entries.iter_mut().for_each(|(key, value)| mask(key, value)),
        Value::Array(entries) => entries.iter_mut().for_each(|value| mask(key, value)),
        Value::String(text) => {
            let name = key.to_ascii_lowercase();
            if name == "registrationurl" {
                let start = text.rfind('/').map_or(0, |slash| slash + 1);
                text.replace_range(start.., "***");
            } else if name == "proxy" {
                if let (Some(scheme), Some(at)) = (text.find("://"), text.rfind('@')) {
                    text.replace_range(scheme + 3..at, "***");
                }
            } else if SECRET.iter().any(|secret| name.contains(secret)) && !name.contains("authorized") {
                *text = "***".to_owned();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_and_passwords_are_masked_at_every_depth() {
        let mut value = json!({
            "rancheros": {"install": {
                "registrationURL": "https://a.test/v1-rancheros/registration/secretsecret",
                "proxy": "http://me:pr0xy@proxy.test:3128",
            }},
            "rancherd": {"token": "t0ken"},
            "users": [{"name": "a", "passwd": "hash", "ssh_authorized_keys": ["ssh-ed25519 AAAA"]}],
        });
        mask("", &mut value);
        let text = value.to_string();
        for secret in ["secretsecret", "t0ken", "hash", "pr0xy"] {
            assert!(!text.contains(secret), "{text}");
        }
        for shown in ["https://a.test/v1-rancheros/registration/***", "ssh-ed25519 AAAA", "http://***@proxy.test:3128"]
        {
            assert!(text.contains(shown), "{shown} is not in {text}");
        }
    }
}
