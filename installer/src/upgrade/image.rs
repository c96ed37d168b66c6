//! A release in a registry.

use super::error::UpgradeError;
use protocol::error_chain;
use registry::{Patience, Proxy, PullStep, Reference, RegistriesFile, RegistryError};
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
    limits: FetchLimits,
}

/// How long a registry may take.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// For the pull. `None`: as long as something comes.
    whole: Option<Duration>,
    /// For failures one after the other.
    patience: Patience,
}

impl FetchLimits {
    /// For somebody who waits: a registry that restarts.
    pub const BY_HAND: Self = Self { whole: None, patience: Patience::new(Duration::from_secs(5 * 60)) };
    /// For a release that the operator orders. Both together, because the manifest is asked for before the pull, are shorter
    /// than the hour after which `ros-upgrade.service` is ended and the operator gives the order up, so that the machine can
    /// say why.
    pub const ORDERED: Self =
        Self { whole: Some(Duration::from_secs(40 * 60)), patience: Patience::new(Duration::from_secs(15 * 60)) };
}

impl Image {
    /// Where images are pulled into. A download that was interrupted goes on there.
    pub const FOLDER: &str = "/var/lib/ros/upgrade";

    /// `registries` is a file in the form of k3s' registries.yaml. Without one that of k3s is read, if it exists. Without a proxy
    /// the variables of the environment count.
    pub fn new(
        reference: &str,
        registries: Option<&Path>,
        plain_http: bool,
        proxy: Option<Proxy>,
        limits: FetchLimits,
    ) -> Result<Self, UpgradeError> {
        let reference = reference.parse()?;
        let file = registries.or_else(|| Some(Path::new(REGISTRIES)).filter(|file| file.exists()));
        let registries = file.map(RegistriesFile::read).transpose()?.unwrap_or_default();
        for key in registries.unused_keys() {
            tracing::warn!("{}: {key} is not used", file.unwrap_or(Path::new(REGISTRIES)).display());
        }
        Ok(Self { reference, registries: registries.with_plain_http(plain_http).with_proxy(proxy), limits })
    }

    /// The digest of `release.json`, if the image says so. Nothing is pulled, and whoever pushed the image wrote it. `say` is
    /// told what is waited for.
    pub async fn release(&self, say: &mut (dyn FnMut(String) + Send)) -> Result<Option<String>, UpgradeError> {
        let mut tell = |step: PullStep<'_>| text(&step, &mut 0).into_iter().for_each(&mut *say);
        Ok(registry::inspect(&self.reference, &self.registries, self.limits.patience, &mut tell).await?.release)
    }

    /// Pulls the image into [`Self::FOLDER`]. `say` is told of every tenth, and what is waited for.
    pub async fn fetch(&self, say: &mut (dyn FnMut(String) + Send)) -> Result<(), UpgradeError> {
        let mut told = 0;
        let mut tell = |step: PullStep<'_>| text(&step, &mut told).into_iter().for_each(&mut *say);
        let folder = Path::new(Self::FOLDER);
        let made = folder.parent().map_or(Ok(()), fs::create_dir_all);
        made.map_err(|source| RegistryError::StorageFailed { path: folder.to_owned(), source })?;
        let pulled = registry::pull(&self.reference, folder, &self.registries, self.limits.patience, &mut tell);
        within(self.limits.whole, &self.reference, pulled).await.map(drop)
    }

    /// Makes room again after the release was written.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(Self::FOLDER) {
            tracing::warn!("removing {}: {error}", Self::FOLDER);
        }
    }
}

/// A step for the console, if it says something new. `told`: tenths that were told before.
fn text(step: &PullStep<'_>, told: &mut u64) -> Option<String> {
    match step {
        PullStep::Fetched { bytes, total } => {
            let tenth = bytes.saturating_mul(10) / (*total).max(1);
            let is_new = std::mem::replace(told, tenth.max(*told)) < tenth;
            is_new.then(|| format!("fetched {} % of {} MiB", tenth * 10, total >> 20))
        }
        PullStep::Waits { error, wait, left } => {
            let (wait, minutes) = (wait.as_secs(), left.as_secs().div_ceil(60));
            Some(format!("{}; trying again in {wait} s, for {minutes} more minutes", error_chain(*error)))
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

    #[test]
    fn each_tenth_is_told_once_and_what_is_waited_for() {
        let mut told = 0;
        let mut fetched = |bytes| text(&PullStep::Fetched { bytes, total: 100 << 20 }, &mut told);
        let steps: Vec<String> = [5, 10, 11, 55, 54, 100].into_iter().filter_map(|mib| fetched(mib << 20)).collect();
        assert_eq!(steps, ["fetched 10 % of 100 MiB", "fetched 50 % of 100 MiB", "fetched 100 % of 100 MiB"]);
        let error =
            RegistryError::RegistryUnreachable { host: "r.example.org".into(), source: "connection refused".into() };
        let (wait, left) = (Duration::from_secs(8), Duration::from_secs(285));
        let waits = text(&PullStep::Waits { error: &error, wait, left }, &mut 0).unwrap();
        assert!(waits.contains("r.example.org") && waits.contains("connection refused"), "{waits}");
        assert!(waits.ends_with("trying again in 8 s, for 5 more minutes"), "{waits}");
    }

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
