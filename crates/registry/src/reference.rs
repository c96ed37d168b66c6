//! References to images: `<registry>/<repository>:<tag>` or `…@<digest>`.

use crate::RegistryError;
use crate::digest::Digest;
use std::fmt;
use std::str::FromStr;

/// A reference that names its registry, and a tag or a digest. `nginx` for `docker.io/library/nginx:latest` is not taken:
/// a machine must not fetch its system from a registry that nobody named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(oci_client::Reference);

impl Reference {
    /// The longest: a name of 255 characters, a tag of 128 and a digest of 71, with the registry in front.
    const MAX_BYTES: usize = 768;

    /// Host name or address, perhaps with a port.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// `sha256:<64 hex digits>`, where the reference is pinned.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    pub(crate) fn inner(&self) -> &oci_client::Reference {
        &self.0
    }
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let invalid = |why: String| RegistryError::ReferenceInvalid {
            reference: text.chars().take(Self::MAX_BYTES).collect(),
            why,
        };
        if text.len() > Self::MAX_BYTES {
            return Err(invalid(format!("it is longer than {} bytes", Self::MAX_BYTES)));
        }
        if text.contains("://") {
            return Err(invalid("leave out the scheme: write REGISTRY/REPOSITORY:TAG".into()));
        }
        // The same rule as in containerd: without a dot or a port, the first part is a part of the repository's name.
        let host = text.split_once('/').map_or("", |(host, _)| host);
        if host != "localhost" && !host.contains(['.', ':']) {
            return Err(invalid("it names no registry: write REGISTRY/REPOSITORY:TAG".into()));
        }
        let parsed: oci_client::Reference = text.parse().map_err(|error| invalid(format!("{error}")))?;
        // The parser fills in `latest`, which would make a machine run what was pushed last.
        let named = text.rsplit('/').next().unwrap_or_default();
        if !named.contains([':', '@']) {
            return Err(invalid("it has neither a tag nor a digest: add :VERSION or @sha256:DIGEST".into()));
        }
        if parsed.digest().is_some_and(|digest| digest.parse::<Digest>().is_err()) {
            return Err(invalid("its digest is not sha256: and 64 lower-case hex digits".into()));
        }
        Ok(Self(parsed))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_names_its_registry_and_what_to_take() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for text in [
            "registry.example.org/os/ros:0.1.0".to_owned(),
            "localhost/ros:1".to_owned(),
            "127.0.0.1:5000/ros:1".to_owned(),
            format!("registry.example.org:5000/ros@{digest}"),
            format!("registry.example.org/ros:1@{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().expect(&text).to_string(), text);
        }
        let pinned: Reference = format!("registry.example.org:5000/os/ros:1@{digest}").parse().unwrap();
        assert_eq!((pinned.registry(), pinned.repository()), ("registry.example.org:5000", "os/ros"));
        assert_eq!((pinned.tag(), pinned.digest()), (Some("1"), Some(digest.as_str())));
    }

    #[test]
    fn what_is_refused_says_what_to_write() {
        for (text, why) in [
            ("ros:1", "names no registry"),
            ("os/ros:1", "names no registry"),
            ("", "names no registry"),
            ("https://registry.example.org/ros:1", "leave out the scheme"),
            ("registry.example.org:5000/ros", "neither a tag nor a digest"),
            ("registry.example.org/ROS:1", "invalid"),
            ("registry.example.org/ros@sha512:00", "invalid"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.reason(), "ReferenceInvalid");
            assert!(error.to_string().contains(why), "{error}");
        }
        let upper = format!("registry.example.org/ros@sha256:{}", "A".repeat(64));
        assert!(upper.parse::<Reference>().unwrap_err().to_string().contains("lower-case"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn what_is_taken_is_printed_as_it_was(text in "[a-z]{1,3}[.:][a-z0-9]{1,4}/[a-z/._-]{1,12}[:@][a-z0-9.]{1,8}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
