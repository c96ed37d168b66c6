//! Kubernetes' rule for the keys of labels and annotations.
//!
//! Source: apimachinery `pkg/util/validation`, `IsQualifiedName`.

const LONGEST: usize = 63;
const LONGEST_PREFIX: usize = 253;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a valid key in Kubernetes; write name or prefix/name with a name of at most 63 letters, digits, '-', '_', '.'"
)]
pub struct BadKey;

/// Whether the API server accepts this text as the key of a label or an annotation.
pub fn check_key(key: &str) -> Result<(), BadKey> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_fits = prefix.is_none_or(|prefix| {
        !prefix.is_empty() && prefix.len() <= LONGEST_PREFIX && prefix.split('.').all(is_domain_part)
    });
    if prefix_fits && is_name(name) { Ok(()) } else { Err(BadKey) }
}

fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |c: char| c.is_ascii_alphanumeric();
    name.len() <= LONGEST && name.bytes().all(inner) && name.starts_with(outer) && name.ends_with(outer)
}

fn is_domain_part(part: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !part.is_empty() && part.bytes().all(fits) && !part.starts_with('-') && !part.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_as_by_the_api_server() {
        for good in ["a", "a.b_c-D", "example.org/a", "rancheros.cattle.io/registration"] {
            assert_eq!(check_key(good), Ok(()), "{good:?}");
        }
        let long = "a".repeat(64);
        for bad in ["", "/", "a/", "/a", "a b", "A.org/x", "-a", "a-", "x/y/z", "a..b/c", &long] {
            assert_eq!(check_key(bad), Err(BadKey), "{bad:?}");
        }
    }
}
