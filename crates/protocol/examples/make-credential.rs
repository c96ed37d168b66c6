//! Makes a credential in software, as the operator does, and writes it as `tpm2_activatecredential` reads it.
//!
//! `make-credential EK.der AK.tpmt 32-BYTE-SECRET-FILE OUTPUT`

use protocol::attestation::{AttestationKey, EndorsementKey};
use std::error::Error;
use std::fs;

/// The header that tpm2-tools write before a credential: a magic number and a version.
const TOOLS_HEADER: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [key, attestation_key, secret, output] = &arguments[..] else {
        return Err("usage: make-credential EK.der AK.tpmt SECRET OUTPUT".into());
    };
    let key = EndorsementKey::from_spki_der(&fs::read(key)?)?;
    let attestation_key = AttestationKey::parse(&fs::read(attestation_key)?)?;
    let secret: [u8; 32] = fs::read(secret)?.try_into().map_err(|_| "the secret has not 32 bytes")?;
    let made = key.make_credential(attestation_key.name(), &secret)?;
    let mut file = TOOLS_HEADER.to_vec();
    for part in [&made.credential, &made.encrypted_secret] {
        file.extend(u16::try_from(part.len())?.to_be_bytes());
        file.extend(part);
    }
    fs::write(output, file)?;
    println!("{}", key.tpm_hash());
    Ok(())
}
