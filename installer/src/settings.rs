//! The settings of an installation. Several sources, weakest first, are resolved once into one value.

mod gather;
mod layer;
pub mod sources;

use disk::plan::DeviceSelector;
pub use gather::{GatherError, Gathered};
pub use layer::{Layer, Resolved, SettingError, resolve};
use serde::Serialize;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// Every `rancheros.install.*` key, resolved. Each value remembers where it came from, for messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `configURL`: where more settings and cloud-config are read from (http, https or file).
    pub config_url: Setting<Option<String>>,
    /// `configSHA256`: of the document at `configURL`, without which it is not fetched by plain http.
    pub config_sha256: Setting<Option<Digest>>,
    /// `registrationURL`; absent means that no operator is asked.
    pub registration_url: Setting<Option<String>>,
    /// `registrationCACert`: PEM. When given, only certificates under it are accepted.
    pub registration_ca_cert: Setting<Option<String>>,
    /// `registrationRevision`: what the operator calls the settings by which it is reached; on an installed machine.
    pub registration_revision: Setting<Option<String>>,
    /// `registrationSecret`: by what the operator knows this machine if it has no TPM; what the Secret holds that its
    /// MachineInventory names.
    pub registration_secret: Setting<Option<Secret>>,
    /// `device`: the target's path, or one of its links.
    pub device: Setting<Option<String>>,
    /// `deviceSelector`: how to find the target when its path is not known.
    pub device_selector: Setting<DeviceSelector>,
    /// `automatic`: ask no questions.
    pub automatic: Setting<bool>,
    /// `debug`: log more, and keep the machine up after a failure.
    pub debug: Setting<bool>,
    /// `forceEFI`: install for UEFI although the installer was started by BIOS.
    pub force_efi: Setting<bool>,
    /// `noFormat`: keep the partitions that are there; only the system is written again.
    pub no_format: Setting<bool>,
    /// `powerOff`: switch off instead of rebooting.
    pub power_off: Setting<bool>,
    /// `tty`: the installed system's console, such as `ttyS0` or `ttyS0,115200`.
    pub tty: Setting<Option<String>>,
    /// `isoURL`: where to take the release from instead of the medium.
    pub iso_url: Setting<Option<String>>,
    /// `password`: of the user `root`, as text or as crypt(5) hash.
    pub password: Setting<Option<Secret>>,
    /// `wipe`: the target's present content may be destroyed.
    pub wipe: Setting<bool>,
}

/// A value and where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting<T> {
    pub value: T,
    pub source: Source,
}

impl<T> Setting<T> {
    pub fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }
}
impl<T> Deref for Setting<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Where a setting came from, weakest first. `Display` fits into "DEVICE, from the kernel command line".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Source {
    #[default]
    BuiltIn,
    Medium,
    KernelCommandLine,
    ConfigUrl,
    Flag,
    Operator,
    /// A person at the console.
    Answer,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BuiltIn => "the built-in default",
            Self::Medium => "the medium's registration.yaml",
            Self::KernelCommandLine => "the kernel command line",
            Self::ConfigUrl => "the document at configURL",
            Self::Flag => "the command line",
            Self::Operator => "the operator",
            Self::Answer => "the answer at the console",
        })
    }
}

/// A SHA-256 as `sha256sum` prints it: 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut array = [0; 32];
        array.copy_from_slice(digest.as_ref());
        Self(array)
    }
}

impl FromStr for Digest {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut array = [0; 32];
        hex::decode_to_slice(text.trim(), &mut array).map_err(drop)?;
        Ok(Self(array))
    }
}

/// A string that never appears in a log: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
