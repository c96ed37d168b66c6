//! Fetches a base medium if a URL is given, and polls the folder for changes.

use super::base_medium::{Stamp, is_medium};
use super::{BaseMedium, Media, Source};
use protocol::error_chain;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time between two scans of the folder. A scan reads only the metadata of unchanged files.
const POLL_EVERY: Duration = Duration::from_secs(10);
/// Pause between two attempts to fetch.
const FETCH_RETRY: Duration = Duration::from_secs(30);
/// Media that are served, at most: all of them are held open.
const MOST: usize = 64;

pub struct MediaWatcher {
    source: Source,
    media: watch::Sender<Media>,
}

/// Why the folder cannot be read.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    #[error("inspecting {}", .0.display())]
    Inspect(PathBuf, #[source] io::Error),
    #[error("listing {}", .0.display())]
    List(PathBuf, #[source] io::Error),
}

/// All scanned files. `None`: the file cannot be served, and that was logged.
type Known = HashMap<PathBuf, (Stamp, Option<Arc<BaseMedium>>)>;

impl MediaWatcher {
    pub(super) fn new(source: Source, media: watch::Sender<Media>) -> Self {
        Self { source, media }
    }

    /// Runs as long as the operator.
    pub async fn run(self) {
        if let Some(origin) = &self.source.origin {
            while let Err(error) = origin.fetch_into(&self.source.path).await {
                tracing::warn!(error = error_chain(&error), url = origin.shown(), "downloading a medium");
                tokio::time::sleep(FETCH_RETRY).await;
            }
        }
        let mut known = Known::new();
        let mut complaint = String::new();
        loop {
            let path = self.source.path.clone();
            let scanning = tokio::task::spawn_blocking(move || {
                let found = scan(&path, &mut known);
                (found, known)
            });
            let Ok((found, kept)) = scanning.await else { return tracing::error!("reading the media panicked") };
            known = kept;
            match found {
                Ok(found) => {
                    complaint.clear();
                    self.publish(found);
                }
                // Logged once: a volume that is missing now may come later.
                Err(error) if error_chain(&error) != complaint => {
                    complaint = error_chain(&error);
                    tracing::warn!(error = complaint, "reading the media");
                }
                Err(_) => {}
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    fn publish(&self, found: BTreeMap<String, Arc<BaseMedium>>) {
        self.media.send_if_modified(|media| {
            let stamps = |media: &BTreeMap<String, Arc<BaseMedium>>| {
                media.iter().map(|(name, medium)| (name.clone(), medium.stamp())).collect::<Vec<_>>()
            };
            let unchanged = media.as_ref().is_some_and(|media| stamps(media) == stamps(&found));
            if !unchanged {
                tracing::info!(media = found.keys().cloned().collect::<Vec<_>>().join(" "), "serving media");
                *media = Some(found);
            }
            !unchanged
        });
    }
}

/// The media at `path`, a file or a folder. Reads those that have changed since they were entered in `known`.
fn scan(path: &Path, known: &mut Known) -> Result<BTreeMap<String, Arc<BaseMedium>>, ScanError> {
    let unlisted = |error| ScanError::List(path.to_owned(), error);
    let mut files = Vec::new();
    if fs::metadata(path).map_err(|error| ScanError::Inspect(path.to_owned(), error))?.is_dir() {
        for entry in fs::read_dir(path).map_err(unlisted)? {
            files.push(entry.map_err(unlisted)?.path());
        }
        files.retain(|file| is_medium(file));
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    known.retain(|file, _| files.contains(file));
    let mut found = BTreeMap::new();
    for file in files {
        let Some(medium) = enter(&file, known) else { continue };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if found.len() < MOST {
            found.insert(name, medium);
        }
    }
    Ok(found)
}

/// The medium in a file. The file is read only if it is new or has changed.
fn enter(file: &Path, known: &mut Known) -> Option<Arc<BaseMedium>> {
    // The file may have been deleted since the folder was listed.
    let stamp = Stamp::of(&fs::metadata(file).ok()?);
    if let Some((then, medium)) = known.get(file)
        && *then == stamp
    {
        return medium.clone();
    }
    let medium = match BaseMedium::open(file) {
        Ok(medium) => {
            if let Some(Err(error)) = medium.network_set() {
                let reason = error_chain(error);
                tracing::warn!(file = %file.display(), error = reason, "no machine can start from this medium by the network");
            }
            Some(Arc::new(medium))
        }
        Err(error) => {
            tracing::warn!(file = %file.display(), error = error_chain(&error), "a file is not served as a medium");
            None
        }
    };
    let stamp = medium.as_ref().map_or(stamp, |medium| medium.stamp());
    known.insert(file.to_owned(), (stamp, medium.clone()));
    medium
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn names(media: &BTreeMap<String, Arc<BaseMedium>>) -> Vec<&str> {
        media.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_folder_gives_its_media_and_a_file_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mut known = Known::new();
        assert!(scan(folder.path(), &mut known).unwrap().is_empty());
        let file = fixtures::base_medium(folder.path(), "a.iso", 1);
        fixtures::base_medium(folder.path(), "b.iso", 2);
        fixtures::base_medium(folder.path(), "not this one.iso", 3);
        fs::write(folder.path().join("others.iso"), "somebody's data").unwrap();
        fs::write(folder.path().join("c.iso.part"), "half of one").unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        assert_eq!(names(&scan(folder.path(), &mut known).unwrap()), ["a.iso", "b.iso"]);
        assert_eq!(names(&scan(&file, &mut known).unwrap()), ["a.iso"]);
        assert!(scan(&folder.path().join("nothing"), &mut known).is_err());
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut known = Known::new();
        for (name, fill) in [("a.iso", 1), ("b.iso", 2)] {
            fixtures::base_medium(folder.path(), name, fill);
        }
        let before = scan(folder.path(), &mut known).unwrap();
        let replacement = fixtures::base_medium(folder.path(), "new", 9);
        fs::rename(replacement, folder.path().join("a.iso")).unwrap();
        let after = scan(folder.path(), &mut known).unwrap();
        assert!(Arc::ptr_eq(&before["b.iso"], &after["b.iso"]));
        assert_ne!(before["a.iso"].sha256(), after["a.iso"].sha256());
        fs::remove_file(folder.path().join("a.iso")).unwrap();
        assert_eq!(names(&scan(folder.path(), &mut known).unwrap()), ["b.iso"]);
        assert_eq!(known.len(), 1);
    }

    #[tokio::test]
    async fn a_scan_without_a_change_sends_no_notification() {
        let folder = tempfile::tempdir().unwrap();
        fixtures::base_medium(folder.path(), "a.iso", 1);
        let mut known = Known::new();
        let (media, mut told) = watch::channel(None);
        let watcher = MediaWatcher::new(Source { path: folder.path().into(), origin: None }, media);
        watcher.publish(scan(folder.path(), &mut known).unwrap());
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        watcher.publish(scan(folder.path(), &mut known).unwrap());
        assert!(!told.has_changed().unwrap());
    }
}
