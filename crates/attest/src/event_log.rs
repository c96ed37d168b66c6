//! The firmware's event log (TCG PC Client Platform Firmware Profile, section 10), without secrets. Firmware and GRUB write
//! into it the URLs from which they load, and those of a network boot contain a token.

use protocol::token::{BOOT_PATH, RegistrationToken};

/// Replaces each character of a boot token by `*`. Lengths and digests stay, so that the log can be parsed and compared
/// with the PCRs. URLs are ASCII in device paths, and UTF-16 in load options.
pub(crate) fn without_boot_tokens(mut log: Vec<u8>) -> Vec<u8> {
    for width in [1, 2] {
        mask(&mut log, width);
    }
    log
}

/// `width`: bytes of a character; those behind the first are zero.
fn mask(log: &mut [u8], width: usize) {
    let prefix: Vec<u8> = BOOT_PATH.bytes().flat_map(|byte| [byte, 0].into_iter().take(width)).collect();
    let mut at = 0;
    while at + prefix.len() <= log.len() {
        if !log[at..].starts_with(&prefix) {
            at += 1;
            continue;
        }
        at += prefix.len();
        let characters = log[at..].chunks_exact(width);
        let is_in_token =
            |c: &&[u8]| RegistrationToken::ALPHABET.contains(&c[0]) && c[1..].iter().all(|byte| *byte == 0);
        let length = characters.take_while(is_in_token).count();
        if length >= RegistrationToken::SHORTEST {
            (0..length).for_each(|number| log[at + number * width] = b'*');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &str = "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr";

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn only_boot_tokens_are_replaced() {
        let before = format!("(http,10.0.2.2:8080)/boot/{TOKEN}/ros.iso/registration.cpio /boot/grub/grub.cfg {TOKEN}");
        let stars = "*".repeat(TOKEN.len());
        let after = format!("(http,10.0.2.2:8080)/boot/{stars}/ros.iso/registration.cpio /boot/grub/grub.cfg {TOKEN}");
        assert_eq!(without_boot_tokens(before.clone().into()), after.as_bytes());
        let odd = |text: &str| [&[1, 2, 3][..], &wide(text)].concat();
        assert_eq!(without_boot_tokens(odd(&before)), odd(&after));
    }

    proptest! {
        #[test]
        fn no_log_keeps_a_token(
            before in proptest::collection::vec(any::<u8>(), 0..40), after in proptest::collection::vec(any::<u8>(), 0..40),
            is_wide in any::<bool>(),
        ) {
            let url = format!("http://h/boot/{TOKEN}");
            let url = if is_wide { wide(&url) } else { url.into_bytes() };
            let log = [before, url, after].concat();
            let masked = without_boot_tokens(log.clone());
            prop_assert_eq!(masked.len(), log.len());
            let narrow: Vec<u8> = masked.into_iter().filter(|byte| *byte != 0).collect();
            prop_assert!(!narrow.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()));
        }

        #[test]
        fn logs_without_a_boot_url_stay_as_they_are(log in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(without_boot_tokens(log.clone()), log);
        }
    }
}
