//! The patterns of `modules.alias`.

/// Whether `text` as a whole matches `pattern`, where `*` stands for any run of bytes, `?` for one byte and `[a-c]`
/// for one byte out of a set, as in fnmatch(3) without flags.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // After a `*`: where to go on in the pattern, and the text position it has been stretched to.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if let Some(next) = text.get(t).and_then(|&byte| one(pattern, p, byte)) {
            p = next;
            t += 1;
        } else if p == pattern.len() && t == text.len() {
            return true;
        } else if let Some((after, stretched)) = star.filter(|&(_, stretched)| stretched < text.len()) {
            p = after;
            t = stretched + 1;
            star = Some((after, t));
        } else {
            return false;
        }
    }
}

/// Matches one byte against the element at `p`; the position after the element if it fits.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let end = p + 1 + pattern[p + 1..].iter().position(|&b| b == b']')?;
            in_set(&pattern[p + 1..end], byte).then_some(end + 1)
        }
        literal => (literal == byte).then_some(p + 1),
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    match set {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || in_set(rest, byte),
        [first, rest @ ..] => *first == byte || in_set(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn aliases_match_as_modprobe_does() {
        for (pattern, text, expected) in [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4", false),
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true),
            ("scsi:t-0x05*", "scsi:t-0x05", true),
            ("usb:v*p*d*dc*dsc*dp*ic08isc0[1-6]ip50in*", "usb:v1p2d3dc0dsc0dp0ic08isc06ip50in00", true),
            ("a?c", "abc", true),
            ("a[bd]c", "acc", false),
            ("*", "", true),
            ("", "a", false),
            ("a[", "a[", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_ends(pattern in "[a-c*?\\[\\]-]{0,24}", text in "[a-c]{0,24}") {
            let _ = matches(&pattern, &text);
        }

        #[test]
        fn a_text_matches_itself_with_holes(text in "[a-z0-9:]{1,40}", cut in 0usize..40) {
            let cut = cut.min(text.len());
            let pattern = format!("{}*{}", &text[..cut], &text[cut..]);
            prop_assert!(matches(&pattern, &text));
        }
    }
}
