//! Makes password hashes `$6$` of crypt(5): SHA-512 with 5000 rounds.

use sha_crypt::{PasswordHasher, ShaCrypt};

/// Length of a salt in bytes. crypt(5) writes it as 16 characters.
pub const SALT_BYTES: usize = 12;

/// The crypt(5) hash of a password.
pub fn hash(password: &str, salt: [u8; SALT_BYTES]) -> String {
    let hash = ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), &salt);
    let hash = hash.expect("only a version or an algorithm of the caller's can be refused");
    // The field is left out: 5000 rounds are the default, and other programs do not write it.
    hash.as_str().replacen("rounds=5000$", "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use command::Command;

    #[test]
    fn openssl_agrees() {
        for password in ["a", "Hello world!", &"long ".repeat(40), "pässwörd"] {
            let hash = hash(password, *b"0123456789ab");
            let salt = hash.split('$').nth(2).unwrap();
            assert_eq!(salt.len(), 16, "{hash}");
            let output = Command::new("openssl")
                .args(["passwd", "-6", "-salt", salt, "-stdin"])
                .run_with_input(format!("{password}\n").as_bytes())
                .unwrap();
            assert_eq!(hash, String::from_utf8(output).unwrap().trim(), "{password:?}");
        }
    }

    /// openssl cannot hash an empty password.
    #[test]
    fn an_empty_password_has_a_hash() {
        assert_eq!(hash("", [0; SALT_BYTES]).len(), "$6$................$".len() + 86);
    }
}
