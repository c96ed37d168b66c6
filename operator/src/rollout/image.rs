//! An OCI image's reference as people write it: `[registry[:port]/]repository[:tag][@algorithm:hex]`.
//!
//! Source: the grammar at the top of `reference.go` in the distribution project, which container runtimes share.
//!
//! Why this is not `oci_spec::distribution::Reference` (also in oci-client): it fills in `docker.io` for a missing
//! registry, and whether a registry is named decides about the default registry. It would also add regex, strum and
//! derive_builder.

use std::fmt;
use std::str::FromStr;

/// Longest name with its registry, and longest tag, by the grammar.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;
/// The tag that a runtime uses if neither tag nor digest is given.
const DEFAULT_TAG: &str = "latest";

/// A reference with a tag, a digest or both. Without either the tag is `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageReference {
    /// The tag, if it can be the name of a release.
    pub fn release_tag(&self) -> Option<&str> {
        self.tag.as_deref().filter(|tag| *tag != DEFAULT_TAG)
    }

    /// Whether the reference names a registry.
    pub fn names_registry(&self) -> bool {
        split_registry(&self.name).0.is_some()
    }

    /// The tag, else the first 12 digits of the digest.
    pub fn short(&self) -> &str {
        let digest = || self.digest.as_deref()?.split(':').nth(1)?.get(..12);
        self.tag.as_deref().or_else(digest).unwrap_or(DEFAULT_TAG)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an image reference; write registry/repository:tag, registry/repository@sha256:digest, or both")]
pub struct MalformedImage(String);

impl FromStr for ImageReference {
    type Err = MalformedImage;

    fn from_str(text: &str) -> Result<Self, MalformedImage> {
        let malformed = || MalformedImage(text.chars().take(LONGEST_NAME).collect());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].split_once(':') {
            Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
            None => (rest, None),
        };
        if !is_name(name) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
            return Err(malformed());
        }
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
        Ok(Self { name: name.to_owned(), tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The registry, if one is named, and the rest.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        _ => (None, name),
    }
}

fn is_name(name: &str) -> bool {
    let (registry, path) = split_registry(name);
    name.len() <= LONGEST_NAME && registry.is_none_or(is_registry) && path.split('/').all(is_part)
}

fn is_registry(registry: &str) -> bool {
    // An IPv6 address is in brackets; the colons in it do not begin a port.
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    !host.is_empty()
        && host.bytes().all(inner)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let outer = |c: char| c.is_ascii_alphanumeric();
    part.bytes().all(inner) && part.starts_with(outer) && part.ends_with(outer)
}

fn is_tag(tag: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=LONGEST_TAG).contains(&tag.len()) && tag.bytes().all(inner) && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    let hex = |text: &str| (32..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let algorithm = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
    digest.split_once(':').is_some_and(|(name, value)| algorithm(name) && hex(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> (String, Option<String>) {
        let image: ImageReference = text.parse().unwrap();
        (image.to_string(), image.release_tag().map(str::to_owned))
    }

    #[test]
    fn ports_tags_and_digests_are_distinguished() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let tagged = |text: &str| (text.to_owned(), Some("v1.2".to_owned()));
        assert_eq!(parts("rancher/os2:v1.2"), tagged("rancher/os2:v1.2"));
        assert_eq!(parts("registry:5000/os2:v1.2"), tagged("registry:5000/os2:v1.2"));
        assert_eq!(parts("registry:5000/os2"), ("registry:5000/os2:latest".into(), None));
        assert_eq!(parts("[fd00::1]:5000/os2:v1.2"), tagged("[fd00::1]:5000/os2:v1.2"));
        let both = format!("example.org/a/b:v1.2@{digest}");
        assert_eq!(parts(&both), tagged(&both));
        let pinned = format!("os2@{digest}");
        assert_eq!(parts(&pinned), (pinned.clone(), None));
        assert_eq!(pinned.parse::<ImageReference>().unwrap().short(), "abababababab");
    }

    #[test]
    fn malformed_references_are_refused() {
        let long = format!("os2:{}", "a".repeat(129));
        for bad in ["", ":", "os2:", "os2@", "os2@sha256:12", "a b", "Os2", "a//b", "a/", "r:x/os2", "os2:v1/x", &long]
        {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_handled_and_an_accepted_one_is_accepted_again(text in "[a-z0-9.:/@_\\[\\]A-Z-]{0,60}|.{0,40}") {
            if let Ok(image) = text.parse::<ImageReference>() {
                prop_assert_eq!(image.to_string().parse::<ImageReference>(), Ok(image));
            }
        }
    }
}
