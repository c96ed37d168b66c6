//! The few structures of the TPM 2.0 Library specification, part 2, that a proof is made of. All big-endian.

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};

pub(super) const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ECC_NIST_P256: u16 = 0x0003;
const GENERATED: u32 = 0xff54_4347;
const ST_ATTEST_QUOTE: u16 = 0x8018;
const RH_ENDORSEMENT: u32 = 0x4000_000b;

/// TPMA_OBJECT: restricted and not (section 8.3).
pub(super) const RESTRICTED: u32 = 1 << 16;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
pub(super) const ATTESTATION_KEY_ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | RESTRICTED | 1 << 18;

/// TPMT_PUBLIC of an ECDSA P-256 key. `point` is uncompressed: 4, x, y.
pub(super) fn attestation_key(point: &[u8], attributes: u32) -> Vec<u8> {
    let mut out = Writer::default();
    out.u16(ALG_ECC).u16(ALG_SHA256).u32(attributes);
    out.sized(&[]); // no policy
    out.u16(ALG_NULL); // no symmetric algorithm: it protects no other keys
    out.u16(ALG_ECDSA).u16(ALG_SHA256);
    out.u16(ECC_NIST_P256).u16(ALG_NULL); // no key derivation
    out.sized(&point[1..33]).sized(&point[33..]);
    out.0
}

/// TPMS_ATTEST of a quote by a primary key of the endorsement hierarchy, over PCRs that are all zero.
pub(super) fn quote(ak_name: &[u8], nonce: &[u8], pcrs: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(GENERATED).u16(ST_ATTEST_QUOTE);
    let path = digest(&SHA256, &[&RH_ENDORSEMENT.to_be_bytes()[..], ak_name].concat());
    out.sized(&[&ALG_SHA256.to_be_bytes()[..], path.as_ref()].concat());
    out.sized(nonce);
    out.u64(60_000).u32(1).u32(0).u8(1); // TPMS_CLOCK_INFO: a minute after its first start, and sure of it
    out.u64(0x0001_0000); // firmware version
    out.u32(1).u16(ALG_SHA256); // TPML_PCR_SELECTION with one bank
    let mut bitmap = [0u8; 3];
    for pcr in pcrs {
        bitmap[usize::from(pcr / 8)] |= 1 << (pcr % 8);
    }
    out.u8(3).bytes(&bitmap);
    out.sized(digest(&SHA256, &vec![0; 32 * pcrs.len()]).as_ref());
    out.0
}

/// TPMT_SIGNATURE of ECDSA with SHA-256. `fixed` is r and s of 32 bytes each.
pub(super) fn ecdsa_signature(fixed: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.u16(ALG_ECDSA).u16(ALG_SHA256).sized(&fixed[..32]).sized(&fixed[32..]);
    out.0
}

/// The bytes not yet read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// A TPM2B: its size in two bytes, then that many.
    pub(super) fn sized(&mut self) -> Result<&'a [u8]> {
        let (size, rest) = self.0.split_first_chunk::<2>().context("a size is cut off")?;
        let size = usize::from(u16::from_be_bytes(*size));
        let (bytes, rest) = rest.split_at_checked(size).with_context(|| format!("{size} bytes are cut off"))?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        let size = u16::try_from(bytes.len()).expect("all structures here are short");
        self.u16(size).bytes(bytes)
    }
}
