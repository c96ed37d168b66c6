//! The token in a registration URL: whoever holds it may ask to be registered.

use std::fmt;
use std::str::FromStr;

/// What precedes a boot token in the path of a URL: the token of a registration for network boots.
pub const BOOT_PATH: &str = "/boot/";

/// 32 to 128 characters of `[a-z0-9]`; generated tokens have 54 (over 270 bits). `Debug` and logs never show it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistrationToken(String);

impl RegistrationToken {
    pub const GENERATED_LENGTH: usize = 54;
    /// Characters of the shortest token, and of the longest.
    pub const SHORTEST: usize = 32;
    const LONGEST: usize = 128;
    pub const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

    /// Makes a token from a source of random bytes. Bytes of 252 and above are skipped, so that each of the 36
    /// characters is equally likely.
    pub fn generate(mut random: impl FnMut() -> u8) -> Self {
        let mut token = String::with_capacity(Self::GENERATED_LENGTH);
        while token.len() < Self::GENERATED_LENGTH {
            let byte = random();
            if byte < 252 {
                token.push(char::from(Self::ALPHABET[usize::from(byte % 36)]));
            }
        }
        Self(token)
    }

    /// The token itself, for a URL, a Secret or an index.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegistrationToken {
    type Err = MalformedToken;
    fn from_str(s: &str) -> Result<Self, MalformedToken> {
        let fits =
            (Self::SHORTEST..=Self::LONGEST).contains(&s.len()) && s.bytes().all(|b| Self::ALPHABET.contains(&b));
        if fits { Ok(Self(s.to_owned())) } else { Err(MalformedToken) }
    }
}

impl fmt::Debug for RegistrationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistrationToken(…)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a registration token has 32 to 128 lower-case letters and digits")]
pub struct MalformedToken;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_token_parses_and_stays_out_of_logs() {
        let mut seed = 0u8;
        let token = RegistrationToken::generate(|| {
            seed = seed.wrapping_add(101);
            seed
        });
        assert_eq!(token.expose().parse::<RegistrationToken>(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(token.expose()));
    }

    #[test]
    fn what_is_not_a_token_is_refused() {
        for bad in ["", "short", &"A".repeat(54), &"a".repeat(129), &format!("{}/", "a".repeat(40))] {
            assert_eq!(bad.parse::<RegistrationToken>(), Err(MalformedToken), "{bad:?}");
        }
    }
}
