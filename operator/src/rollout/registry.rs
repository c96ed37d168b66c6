//! The default registry, for images that name none. In a cluster without access to the internet it is Rancher's Setting
//! `system-default-registry`.

use super::ImageReference;

/// The registry of images that name none. By default none: the container runtime then uses its own default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultRegistry(Option<String>);

/// The message does not contain the registry, because somebody may have written a password into it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the default registry (Rancher's Setting system-default-registry, else the chart's systemDefaultRegistry) cannot \
     be put before the image {0}; write it as host[:port][/path], without https://"
)]
pub struct UnusableRegistry(String);

impl DefaultRegistry {
    /// Empty text is none.
    pub fn new(text: &str) -> Self {
        Self(Some(text.trim().trim_end_matches('/').to_owned()).filter(|text| !text.is_empty()))
    }

    /// This registry, or another if there is none.
    pub fn or(self, other: &Self) -> Self {
        Self(self.0.or_else(|| other.0.clone()))
    }

    /// The image with a registry. An image that names one is not changed.
    pub fn complete(&self, image: &ImageReference) -> Result<ImageReference, UnusableRegistry> {
        match &self.0 {
            Some(registry) if !image.names_registry() => {
                format!("{registry}/{image}").parse().map_err(|_| UnusableRegistry(image.to_string()))
            }
            _ => Ok(image.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complete(registry: &str, image: &str) -> String {
        DefaultRegistry::new(registry).complete(&image.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn images_without_a_registry_come_from_the_default_one() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (registry, image, pulled) in [
            ("registry.example.org", "rancher/os2:v1", "registry.example.org/rancher/os2:v1".to_owned()),
            ("registry.example.org/", "ubuntu", "registry.example.org/ubuntu:latest".to_owned()),
            (" r:5000/mirror ", &format!("os2@{digest}"), format!("r:5000/mirror/os2@{digest}")),
            ("[fd00::1]:5000", "a/b:c", "[fd00::1]:5000/a/b:c".to_owned()),
            ("registry.example.org", "quay.io/a/b:c", "quay.io/a/b:c".to_owned()),
            ("registry.example.org", "localhost/a:c", "localhost/a:c".to_owned()),
            ("registry.example.org", "other:5000/a:c", "other:5000/a:c".to_owned()),
            ("", "a/b:c", "a/b:c".to_owned()),
        ] {
            assert_eq!(complete(registry, image), pulled, "{registry:?} {image}");
        }
    }

    #[test]
    fn ranchers_registry_takes_precedence_over_the_charts() {
        let chart = DefaultRegistry::new("chart.example.org");
        assert_eq!(DefaultRegistry::new("").or(&chart), chart);
        assert_eq!(DefaultRegistry::new("r.example.org").or(&chart), DefaultRegistry::new("r.example.org"));
    }

    #[test]
    fn a_malformed_registry_is_refused_and_not_shown() {
        for registry in ["https://registry.example.org", "user:secret@registry.example.org", "a b", "x:port"] {
            let refused = DefaultRegistry::new(registry).complete(&"a/b:c".parse().unwrap()).unwrap_err().to_string();
            assert!(refused.contains("a/b:c") && !refused.contains(registry), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn a_completed_image_is_complete(registry in "[a-z]{1,9}\\.[a-z]{2,3}(:[0-9]{1,4})?", image in "[a-z]{1,9}(/[a-z]{1,9}){0,2}") {
            let registry = DefaultRegistry::new(&registry);
            let once = registry.complete(&image.parse().unwrap()).unwrap();
            prop_assert!(once.names_registry());
            prop_assert_eq!(registry.complete(&once), Ok(once));
        }
    }
}
