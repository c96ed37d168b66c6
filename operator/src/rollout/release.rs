//! The desired release, and whether a machine runs it.

use super::image::ImageReference;
use api::OsStatus;
use protocol::message::Slot;
use protocol::upgrade_order::is_release;

/// Identifies the release in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// Such as `0.1.0` or `v0.1.0`, which are the same: tags often have the `v`, releases do not.
    Name(String),
    /// The digest of its `release.json`: `sha256:` and 64 hex digits.
    Digest(String),
}

/// Which release a machine runs, according to its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    Healthy,
    /// It runs the release, which is not healthy yet.
    Unproven,
    Another,
    /// It runs the recovery system, because no slot started.
    Recovery,
}

impl Release {
    /// From the spec, else from the tag of the image. `None`: neither names a release.
    pub fn of(given: Option<&str>, image: Option<&ImageReference>) -> Option<Self> {
        match given.map(str::trim).filter(|text| !text.is_empty()) {
            Some(text) if text.starts_with("sha256:") => Some(Self::Digest(text.to_ascii_lowercase())),
            Some(text) => Some(Self::Name(text.to_owned())),
            None => Some(Self::Name(image?.release_tag()?.to_owned())),
        }
    }

    pub fn running(&self, os: &OsStatus) -> Running {
        let is_this = match self {
            Self::Name(text) | Self::Digest(text) => {
                is_release(text, os.version.as_deref().unwrap_or_default(), os.release.as_deref().unwrap_or_default())
            }
        };
        match (is_this, os.slot.as_deref() == Some(Slot::Recovery.to_string().as_str())) {
            (_, true) => Running::Recovery,
            (true, _) if os.healthy => Running::Healthy,
            (true, _) => Running::Unproven,
            (false, _) => Running::Another,
        }
    }

    /// Whether a Node's `status.nodeInfo.osImage`, which is PRETTY_NAME of its os-release, names this release.
    /// `None`: a digest is in no such name.
    pub fn is_named_in(&self, os_image: &str) -> Option<bool> {
        match self {
            Self::Name(name) => Some(os_image.split_whitespace().any(|word| is_release(name, word, ""))),
            Self::Digest(_) => None,
        }
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(text) | Self::Digest(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(version: &str, slot: &str, healthy: bool) -> OsStatus {
        OsStatus {
            version: Some(version.into()),
            release: Some("sha256:ab".into()),
            slot: Some(slot.into()),
            healthy,
            ..OsStatus::default()
        }
    }

    #[test]
    fn the_tag_names_the_release_by_default() {
        let image: ImageReference = "rancher/os2:v0.2.0".parse().unwrap();
        let release = Release::of(None, Some(&image)).unwrap();
        assert_eq!(release.running(&os("0.2.0", "A", true)), Running::Healthy);
        assert_eq!(release.running(&os("0.2.0", "B", false)), Running::Unproven);
        assert_eq!(release.running(&os("0.1.0", "A", true)), Running::Another);
        assert_eq!(release.running(&os("0.2.0", "Recovery", true)), Running::Recovery);
        assert_eq!(release.is_named_in("RancherOS 0.2.0"), Some(true));
        assert_eq!(release.is_named_in("RancherOS 0.2.01"), Some(false));

        let release = Release::of(Some("sha256:AB"), Some(&image)).unwrap();
        assert_eq!(release.running(&os("other", "A", true)), Running::Healthy);
        assert_eq!(release.is_named_in("RancherOS 0.2.0"), None);
    }

    #[test]
    fn latest_names_no_release() {
        let image: ImageReference = "rancher/os2".parse().unwrap();
        assert_eq!(Release::of(None, Some(&image)), None);
        assert_eq!(Release::of(Some(" "), None), None);
    }
}
