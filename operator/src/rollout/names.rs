//! Names of a roll-out's objects that have narrower limits than the name of its ManagedOSImage.

use crate::digest::Digest;

/// Longest name of a Helm release.
const LONGEST_RELEASE: usize = 53;
/// Longest name of a Secret that a Plan names: the volume of its Jobs is called `secret-<name>`, and a volume's name is a
/// DNS label.
const LONGEST_SECRET: usize = 63 - "secret-".len();
/// Hex digits of the digest at the end of a name that was changed.
const DIGEST: usize = 8;

/// Name of a ManagedOSImage's Bundle, Plan and most other objects. The kind's definition keeps it within 63 characters.
pub fn name(image: &str) -> String {
    format!("mos-{image}")
}

/// Name of the Secret with the cloud-config. `name`: of the other objects.
pub fn secret(name: &str) -> String {
    label(name, LONGEST_SECRET)
}

/// Name of the Helm release that Fleet makes of the Bundle. Some of Fleet's releases uninstall a release whose name they
/// had to change, so that it is given.
pub fn release(name: &str) -> String {
    label(name, LONGEST_RELEASE)
}

/// The name if it consists of `a-z`, `0-9` and single hyphens and is short enough; else a similar one.
fn label(name: &str, longest: usize) -> String {
    let mut label: String =
        name.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    while label.contains("--") {
        label = label.replace("--", "-");
    }
    if label == name && label.len() <= longest {
        return label;
    }
    label.truncate(longest - DIGEST - 1);
    let digest = Digest::of(&name).to_string();
    format!("{}-{}", label.trim_end_matches('-'), &digest[..DIGEST])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn usual_names_stay_and_others_are_similar() {
        assert_eq!((secret("mos-x"), release("mos-x")), ("mos-x".to_owned(), "mos-x".to_owned()));
        let dots = release(&name("update-to-2.0.2"));
        assert!(dots.starts_with("mos-update-to-2-0-2-") && dots.len() == 28, "{dots}");
        assert_ne!(secret("mos-shop--north"), secret("mos-shop-north"));
        assert_ne!(secret("mos-a.b"), secret("mos-a-b"));
        let long = name(&"n".repeat(59));
        assert_eq!((secret(&long).len(), release(&long).len()), (56, 53));
    }

    proptest! {
        #[test]
        fn every_name_becomes_a_label(image in "[a-z0-9]([a-z0-9.-]{0,57}[a-z0-9])?") {
            for (label, longest) in [(secret(&name(&image)), LONGEST_SECRET), (release(&name(&image)), LONGEST_RELEASE)] {
                prop_assert!(label.len() <= longest && !label.ends_with('-') && !label.contains("--"), "{}", label);
                prop_assert!(label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'), "{}", label);
            }
        }
    }
}
