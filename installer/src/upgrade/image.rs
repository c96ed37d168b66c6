//! A release in a registry.

use super::error::UpgradeError;
use registry::{Reference, RegistriesFile, RegistryError};
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// The file that k3s reads as well. It survives restarts.
const REGISTRIES: &str = "/etc/rancher/k3s/registries.yaml";

/// An image, and how its registry is used.
#[derive(Debug)]
pub struct Image {
    reference: Reference,
    registries: RegistriesFile,
}

impl Image {
    /// Where images are pulled into. A download that was interrupted goes on there.
    pub const FOLDER: &str = "/var/lib/ros/upgrade";

    /// `registries` is a file in the form of k3s' registries.yaml. Without one that of k3s is read, if it exists.
    pub fn new(reference: &str, registries: Option<&Path>, plain_http: bool) -> Result<Self, UpgradeError> {
        let reference = reference.parse()?;
        let file = registries.or_else(|| Some(Path::new(REGISTRIES)).filter(|file| file.exists()));
        let registries = file.map(RegistriesFile::read).transpose()?.unwrap_or_default();
        for key in registries.unused_keys() {
            tracing::warn!("{}: {key} is not used", file.unwrap_or(Path::new(REGISTRIES)).display());
        }
        Ok(Self { reference, registries: registries.with_plain_http(plain_http) })
    }

    /// The digest of `release.json`, if the image says so. Nothing is pulled, and whoever pushed the image wrote it.
    pub async fn release(&self) -> Result<Option<String>, UpgradeError> {
        Ok(registry::inspect(&self.reference, &self.registries).await?.release)
    }

    /// Pulls the image into [`Self::FOLDER`], within `limit` if there is one. Calls `progress` for every tenth with percent
    /// and MiB in all.
    pub async fn fetch(
        &self,
        limit: Option<Duration>,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), UpgradeError> {
        let mut told = 0;
        let mut tenths = |bytes: u64, total: u64| {
            let tenth = bytes.saturating_mul(10) / total.max(1);
            if tenth > told {
                told = tenth;
                progress(tenth * 10, total >> 20);
            }
        };
        let folder = Path::new(Self::FOLDER);
        let made = folder.parent().map_or(Ok(()), fs::create_dir_all);
        made.map_err(|source| RegistryError::StorageFailed { path: folder.to_owned(), source })?;
        let pulled = registry::pull(&self.reference, folder, &self.registries, &mut tenths);
        within(limit, &self.reference, pulled).await.map(drop)
    }

    /// Makes room again after the release was written.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(Self::FOLDER) {
            tracing::warn!("removing {}: {error}", Self::FOLDER);
        }
    }
}

/// Ends the pull after `limit`. What came until then is kept.
async fn within<T>(
    limit: Option<Duration>,
    reference: &Reference,
    pull: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, UpgradeError> {
    let Some(limit) = limit else { return Ok(pull.await?) };
    match timeout(limit, pull).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(UpgradeError::RegistryTooSlow { image: reference.to_string(), minutes: limit.as_secs() / 60 }),
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn a_registry_that_is_too_slow_has_its_own_reason() {
        let reference: Reference = "registry.example.org/ros:1".parse().unwrap();
        let limit = Some(Duration::from_millis(1));
        let error = within::<()>(limit, &reference, pending()).await.unwrap_err();
        assert_eq!(error.reason(), "RegistryTooSlow");
        assert!(error.to_string().contains("registry.example.org/ros:1"), "{error}");
        within(limit, &reference, ready(Ok(()))).await.unwrap();
        within(None, &reference, ready(Ok(()))).await.unwrap();
    }
}
