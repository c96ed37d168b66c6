//! TPMS_ATTEST: a statement of a TPM, which an attestation key signs (part 2, 10.12.8).

use super::public_area::ALG_SHA256;
use super::reader::{Malformed, Reader};

/// TPM_GENERATED_VALUE. A restricted key signs data that starts with it only if the TPM made the data.
const MAGIC: u32 = 0xff54_4347;
const CERTIFIED_CREATION: u16 = 0x801a;
const QUOTE: u16 = 0x8018;

pub(crate) struct Statement<'a> {
    /// The nonce of the challenge.
    pub(crate) qualifying_data: &'a [u8],
    pub(crate) reset_count: u32,
    pub(crate) restart_count: u32,
    pub(crate) firmware_version: u64,
    pub(crate) attested: Attested<'a>,
}

pub(crate) enum Attested<'a> {
    Quote {
        /// PCRs of the SHA-256 bank, ascending.
        pcrs: Vec<u8>,
        pcr_digest: &'a [u8],
    },
    Creation {
        object_name: &'a [u8],
        creation_hash: &'a [u8],
    },
}

impl<'a> Statement<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != MAGIC {
            return Err(Malformed("it was not made by a TPM"));
        }
        let kind = reader.u16()?;
        let _qualified_signer = reader.sized()?;
        let qualifying_data = reader.sized()?;
        let _clock = reader.u64()?;
        let (reset_count, restart_count, _safe) = (reader.u32()?, reader.u32()?, reader.u8()?);
        let firmware_version = reader.u64()?;
        let attested = match kind {
            QUOTE => Attested::Quote { pcrs: sha256_selection(&mut reader)?, pcr_digest: reader.sized()? },
            CERTIFIED_CREATION => Attested::Creation { object_name: reader.sized()?, creation_hash: reader.sized()? },
            _ => return Err(Malformed("it is neither a quote nor the certificate of a creation")),
        };
        reader.end()?;
        Ok(Self { qualifying_data, reset_count, restart_count, firmware_version, attested })
    }
}

/// TPML_PCR_SELECTION with one bank, which must be SHA-256 (part 2, 10.9.7).
fn sha256_selection(reader: &mut Reader) -> Result<Vec<u8>, Malformed> {
    if reader.u32()? != 1 || reader.u16()? != ALG_SHA256 {
        return Err(Malformed("it does not cover exactly the SHA-256 bank"));
    }
    let octets = reader.u8()?;
    let bitmap = reader.take(usize::from(octets))?;
    if bitmap.len() > 4 {
        return Err(Malformed("it selects PCRs that do not exist"));
    }
    let selected = |pcr: &u8| bitmap.get(usize::from(pcr / 8)).is_some_and(|octet| octet & (1 << (pcr % 8)) != 0);
    Ok((0..32).filter(selected).collect())
}
