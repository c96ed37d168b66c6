//! The name of an inventory: the filled-in template, and a suffix derived from the machine's TPM hash.
//!
//! The suffix is not random, so the name of a machine is always the same. If two replicas create its inventory at the
//! same time, one of them gets AlreadyExists, without a lock or a listing. If the name belongs to another machine,
//! which the hashes show, the next candidate has a longer suffix.

use super::templates::Rendered;
use protocol::TpmHash;

/// The longest name: that of a DNS label (RFC 1123), because a node may be named after it.
const LONGEST: usize = 63;
/// Letters and digits that neither spell words nor look alike, as in Kubernetes' own generated names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;

/// The number of candidates. The first has 14 million suffixes, the second their square, so the third is never needed
/// by coincidence.
pub const CANDIDATES: usize = 3;

/// A valid object name from a filled-in template. `candidate` counts from 0; each has a longer suffix than the one
/// before.
pub fn machine_name(rendered: &Rendered, hash: &TpmHash, candidate: usize) -> String {
    let suffix = suffix(hash, SUFFIX * (candidate + 1));
    let mut stem = rendered.to_name();
    stem.truncate(LONGEST - 1 - suffix.len());
    let stem = stem.trim_end_matches('-');
    format!("{stem}-{suffix}")
}

fn suffix(hash: &TpmHash, length: usize) -> String {
    let digits = hash.as_str().as_bytes();
    // Four hex digits at a time: 65536 is near enough to a multiple of 27 for names.
    digits
        .chunks(4)
        .take(length)
        .map(|chunk| {
            let number = chunk
                .iter()
                .fold(0usize, |sum, digit| sum * 16 + char::from(*digit).to_digit(16).unwrap_or(0) as usize);
            char::from(ALPHABET[number % ALPHABET.len()])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::templates::Template;
    use proptest::prelude::*;
    use protocol::SmbiosDocument;

    fn hash(text: &str) -> TpmHash {
        TpmHash::of_public_key(text.as_bytes())
    }

    fn name(text: &str, machine: &str, candidate: usize) -> String {
        let Ok(template) = text.parse::<Template>();
        machine_name(&template.render(&SmbiosDocument::default()), &hash(machine), candidate)
    }

    #[test]
    fn a_name_consists_of_the_template_and_a_suffix_of_the_machine() {
        let first = name("m-QEMU-Standard PC (Q35)-0042-", "a", 0);
        let (stem, suffix) = first.rsplit_once('-').unwrap();
        assert_eq!((stem, suffix.len()), ("m-qemu-standard-pc-q35-0042", 5));
        assert_eq!(first, name("m-QEMU-Standard PC (Q35)-0042-", "a", 0));
        assert_ne!(first, name("m-QEMU-Standard PC (Q35)-0042-", "b", 0));
        assert!(name("", "a", 0).starts_with("m-"));
        assert!(name("0815", "a", 0).starts_with("m0815-"));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_valid_name(text in ".{0,200}", machine in ".{4}", candidate in 0..CANDIDATES) {
            let name = name(&text, &machine, candidate);
            prop_assert!(name.len() <= LONGEST);
            prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase()));
            prop_assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
            prop_assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')));
            prop_assert!(!name.contains("--"));
        }
    }
}
