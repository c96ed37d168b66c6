//! The password hash `$6$`: "Unix crypt using SHA-256 and SHA-512", Ulrich Drepper, version 0.6, with 5000 rounds.

use aws_lc_rs::digest::{SHA512, digest};

const ROUNDS: usize = 5000;
/// Longest salt, in characters.
const SALT: usize = 16;
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A salt of 16 characters from random bytes.
pub fn salt(random: [u8; SALT]) -> String {
    random.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 64)])).collect()
}

/// The crypt(5) hash of a password. Step numbers are those of the specification.
pub fn hash(password: &str, salt: &str) -> String {
    let password = password.as_bytes();
    let salt = &salt.as_bytes()[..salt.len().min(SALT)];
    // Steps 4 to 8.
    let b = sha512(&[password, salt, password]);
    // Steps 1 to 3 and 9 to 12.
    let mut a = [password, salt, &repeated(&b, password.len())].concat();
    let mut bits = password.len();
    while bits > 0 {
        a.extend_from_slice(if bits & 1 == 1 { &b } else { password });
        bits >>= 1;
    }
    let mut result = sha512(&[&a]);
    // Steps 13 to 16, and 17 to 20.
    let p = repeated(&sha512(&vec![password; password.len()]), password.len());
    let s = repeated(&sha512(&vec![salt; 16 + usize::from(result[0])]), salt.len());
    // Step 21.
    for round in 0..ROUNDS {
        let (first, last) = if round % 2 == 1 { (&p[..], &result[..]) } else { (&result[..], &p[..]) };
        let s = if round % 3 == 0 { &[] } else { &s[..] };
        let p = if round % 7 == 0 { &[] } else { &p[..] };
        result = sha512(&[first, s, p, last]);
    }
    format!("$6${}${}", String::from_utf8_lossy(salt), encode(&result))
}

fn sha512(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA512, &parts.concat()).as_ref().to_vec()
}

fn repeated(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(length).collect()
}

/// Step 22: groups of three bytes, each as four characters from the lowest six bits up.
fn encode(digest: &[u8]) -> String {
    let mut text = String::new();
    let mut group = |bytes: [u8; 3], characters: usize| {
        let mut word = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for _ in 0..characters {
            text.push(char::from(ALPHABET[(word & 63) as usize]));
            word >>= 6;
        }
    };
    let (mut x, mut y, mut z) = (0, 21, 42);
    for _ in 0..21 {
        group([digest[x], digest[y], digest[z]], 4);
        (x, y, z) = (y + 1, z + 1, x + 1);
    }
    group([0, 0, digest[63]], 2);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssl_agrees() {
        for password in ["a", "Hello world!", &"long ".repeat(40), "pässwörd"] {
            let output = command::Command::new("openssl")
                .args(["passwd", "-6", "-salt", "0123456789abcdef", "-stdin"])
                .run_with_input(format!("{password}\n").as_bytes())
                .unwrap();
            assert_eq!(hash(password, "0123456789abcdef"), String::from_utf8(output).unwrap().trim(), "{password:?}");
        }
    }

    /// openssl hashes no empty password.
    #[test]
    fn an_empty_password_has_a_hash() {
        assert_eq!(hash("", "salt").len(), "$6$salt$".len() + 86);
    }

    #[test]
    fn a_salt_has_sixteen_characters() {
        assert_eq!(salt([0; 16]), "................");
        assert_eq!(salt([255; 16]).len(), 16);
    }
}
