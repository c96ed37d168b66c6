//! Installation media with the settings of a registration: a base medium, and the settings laid over it while it is
//! sent. The bytes are those that `ros-image customize` writes. Nothing is stored for a registration. The files of a
//! network boot are parts of the same base media.
//!
//! ```text
//! folder ─► watcher: polls, digests ─► MediaStore ─► server/routes/{media,boot}: http_range, download (bytes)
//! URL ─► source ─┘                      └─► MachineRegistration status.mediaURLs, status.bootURLs
//! ```

mod base_medium;
mod download;
mod http_range;
pub mod network_boot;
mod source;
mod watcher;

pub use base_medium::BaseMedium;
pub use download::Download;
pub use http_range::{Selection, select};
pub use source::{Origin, Source};
pub use watcher::MediaWatcher;

use crate::registration::endpoint::Endpoint;
use protocol::{Refusal, RefusalCode, RegistrationToken};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The path under which media are served.
pub const PATH: &str = "/v1-rancheros/media";
/// Seconds after which a client should come back, if the medium is being fetched or read or all permits are taken.
const RETRY_AFTER: u64 = 10;

/// The base media by file name. `None` before the first scan.
type Media = Option<BTreeMap<String, Arc<BaseMedium>>>;

/// The most memory of a download, in bytes. `make bench` shows it.
const DOWNLOAD_BYTES: u64 = 128 << 10;
/// The share of the operator's memory that downloads of media may use; those of network boots may use as much.
const SHARE: u64 = 16;
/// The limit of downloads where nobody says how much memory there is.
const DOWNLOADS: usize = 32;

/// The limit of concurrent downloads for an operator with so many bytes of memory.
pub fn downloads_within(memory: Option<u64>) -> usize {
    let fitting = memory.and_then(|bytes| usize::try_from(bytes / SHARE / DOWNLOAD_BYTES).ok());
    fitting.map_or(DOWNLOADS, |fitting| fitting.max(1))
}

/// The current base media, and permits for downloads.
#[derive(Clone)]
pub struct MediaStore {
    media: watch::Receiver<Media>,
    permits: Arc<Semaphore>,
    /// For files of a network boot, which need no token: strangers must not take the permits of media.
    boot_permits: Arc<Semaphore>,
}

impl MediaStore {
    /// For at most `most` concurrent downloads of media, and as many of files of a network boot. Without a source there
    /// are no media. With a source the watcher must run.
    pub fn new(source: Option<Source>, most: usize) -> (Self, Option<MediaWatcher>) {
        let (sender, media) = watch::channel(if source.is_some() { None } else { Some(BTreeMap::new()) });
        let watcher = source.map(|source| MediaWatcher::new(source, sender));
        let permits = || Arc::new(Semaphore::new(most));
        (Self { media, permits: permits(), boot_permits: permits() }, watcher)
    }

    /// File names of all media. `None` before the first scan.
    pub fn names(&self) -> Option<Vec<String>> {
        self.media.borrow().as_ref().map(|media| media.keys().cloned().collect())
    }

    /// File names of the media from which a machine can start over the network. `None` before the first scan.
    pub fn network_names(&self) -> Option<Vec<String>> {
        let named = |media: &BTreeMap<String, Arc<BaseMedium>>| {
            let with_set = media.iter().filter(|(_, medium)| matches!(medium.network_set(), Some(Ok(_))));
            with_set.map(|(name, _)| name.clone()).collect()
        };
        self.media.borrow().as_ref().map(named)
    }

    /// Notifies of each change.
    pub fn watch(&self) -> watch::Receiver<Media> {
        self.media.clone()
    }

    pub fn find(&self, name: &str) -> Result<Arc<BaseMedium>, Refusal> {
        let unknown = "no medium of this name is served; take the URL from the registration's status";
        self.find_by(unknown, |media| media.get(name))
    }

    /// The medium with this digest, or with a digest that begins like this.
    pub fn find_by_digest(&self, digest: &str) -> Result<Arc<BaseMedium>, Refusal> {
        let unknown = "no medium with this digest is served any more; start again";
        self.find_by(unknown, |media| media.values().find(|medium| medium.sha256().starts_with(digest)))
    }

    fn find_by(
        &self,
        unknown: &str,
        find: impl FnOnce(&BTreeMap<String, Arc<BaseMedium>>) -> Option<&Arc<BaseMedium>>,
    ) -> Result<Arc<BaseMedium>, Refusal> {
        let media = self.media.borrow();
        let Some(media) = media.as_ref() else {
            let message = "the operator is downloading or reading its media";
            return Err(Refusal::new(RefusalCode::Unavailable, message).retry_after(RETRY_AFTER));
        };
        find(media).cloned().ok_or_else(|| Refusal::new(RefusalCode::UnknownMedium, unknown))
    }

    /// A permit for a download of a medium.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        acquire(&self.permits)
    }

    /// A permit for a download of a file of a network boot.
    pub fn admit_boot(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        acquire(&self.boot_permits)
    }
}

fn acquire(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    permits.clone().try_acquire_owned().map_err(|_| {
        let message = "the limit of concurrent downloads is reached";
        Refusal::new(RefusalCode::Busy, message).retry_after(RETRY_AFTER)
    })
}

/// The URL of a medium. It contains the token.
pub fn url(endpoint: &Endpoint, token: &RegistrationToken, name: &str) -> String {
    format!("{}{PATH}/{}/{name}", endpoint.server_url, token.expose())
}

/// The refusal if a medium has changed since its digest was computed. The next scan reads it again.
pub fn changed_underneath() -> Refusal {
    let message = "the medium is being replaced; it is served again when it has been read";
    Refusal::new(RefusalCode::Unavailable, message).retry_after(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_downloads_follows_the_memory() {
        assert_eq!(downloads_within(None), DOWNLOADS);
        for (memory, most) in
            [(0, 1), (256 << 20, 128), (2 << 30, 1024), (u64::MAX, (u64::MAX / SHARE / DOWNLOAD_BYTES) as usize)]
        {
            assert_eq!(downloads_within(Some(memory)), most, "{memory}");
        }
    }
}
