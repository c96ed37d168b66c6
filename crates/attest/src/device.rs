//! A TPM used through tpm2-tss. A TCTI address names it, usually the kernel's device.

use crate::{Quote, Tpm, TpmError};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey, RsaPublicKeyComponents};
use protocol::hardware::TpmInfo;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, ek, nv};
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::{CapabilityType, PropertyTag, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle, NvIndexTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    CapabilityData, Data, EccPoint, EccScheme, EncryptedSecret, IdObject, KeyDerivationFunctionScheme,
    PcrSelectionListBuilder, PcrSlot, Public, PublicBuilder, PublicEccParametersBuilder, SignatureScheme,
    SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;
use tss_esapi::{Context, TctiNameConf};
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode, Tag, Tagged};

/// NV indices of the certificates of the endorsement key (TCG EK Credential Profile 2.5, section 2.2.1.4).
const RSA_2048_CERTIFICATE: u32 = 0x01c0_0002;
const P256_CERTIFICATE: u32 = 0x01c0_000a;
/// NV indices of the certificates of their issuers, in order (the same profile, section 2.2.1.5.2).
const CERTIFICATE_CHAIN: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;
/// Limit for chain certificates. No vendor stores that many. The limit also bounds the answers of a broken TPM.
const MAX_CHAIN: u32 = 8;

/// An open TPM. Keys are made at first use and kept loaded. tss-esapi flushes them when this is dropped.
pub struct DeviceTpm {
    context: Context,
    endorsement: Option<(KeyHandle, AsymmetricAlgorithmSelection)>,
    attestation: Option<KeyHandle>,
}

impl DeviceTpm {
    /// The resource-managed device of the running kernel.
    pub const DEFAULT_ADDRESS: &str = "device:/dev/tpmrm0";

    /// Opens the TPM at a TCTI address, such as `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
    pub fn open(address: &str) -> Result<Self, TpmError> {
        if let Some(path) = address.strip_prefix("device:") {
            check_device(Path::new(path))?;
        }
        let configuration = TctiNameConf::from_str(address).map_err(|_| TpmError::Address(address.to_owned()))?;
        let context = Context::new(configuration).map_err(failed("opening the TPM"))?;
        Ok(Self { context, endorsement: None, attestation: None })
    }

    fn endorsement_handle(&mut self) -> Result<(KeyHandle, AsymmetricAlgorithmSelection), TpmError> {
        if let Some(found) = self.endorsement {
            return Ok(found);
        }
        let kinds = [
            AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
            AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
        ];
        for kind in kinds {
            match ek::create_ek_object_2(&mut self.context, kind, None) {
                Ok(handle) => return Ok(*self.endorsement.insert((handle, kind))),
                Err(error) if means_unsupported(&error) => {
                    tracing::debug!(?kind, %error, "the TPM does not support this kind of endorsement key");
                }
                Err(error) => return Err(failed("creating the endorsement key")(error)),
            }
        }
        Err(TpmError::NoEndorsementKey)
    }

    fn attestation_handle(&mut self) -> Result<KeyHandle, TpmError> {
        if let Some(handle) = self.attestation {
            return Ok(handle);
        }
        let doing = "creating the attestation key";
        let template = attestation_template().map_err(failed(doing))?;
        let made = self
            .context
            .execute_with_nullauth_session(|c| {
                c.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            })
            .map_err(failed(doing))?;
        Ok(*self.attestation.insert(made.key_handle))
    }

    fn read_nv(&mut self, index: u32) -> Result<Vec<u8>, tss_esapi::Error> {
        let handle = NvIndexTpmHandle::new(index)?;
        let object = self.context.execute_without_session(|c| c.tr_from_tpm_public(TpmHandle::NvIndex(handle)))?;
        // The profile requires that anybody can read the index by its own empty authorisation. Some vendors allow only
        // the owner's, which is empty unless somebody took ownership.
        let mut read = |auth| self.context.execute_with_nullauth_session(|c| nv::read_full(c, auth, handle));
        read(NvAuth::NvIndex(object.into())).or_else(|_| read(NvAuth::Owner))
    }

    fn nv_indices_from(&mut self, first: u32, count: u32) -> Result<Vec<u32>, tss_esapi::Error> {
        let (data, _more) =
            self.context.execute_without_session(|c| c.get_capability(CapabilityType::Handles, first, count))?;
        Ok(match data {
            CapabilityData::Handles(handles) => handles
                .into_inner()
                .into_iter()
                .filter(|handle| matches!(handle, TpmHandle::NvIndex(_)))
                .map(u32::from)
                .collect(),
            _ => Vec::new(),
        })
    }
}

impl Tpm for DeviceTpm {
    fn endorsement_key(&mut self) -> Result<Vec<u8>, TpmError> {
        let (handle, _) = self.endorsement_handle()?;
        let (public, _, _) =
            self.context.read_public(handle).map_err(failed("reading the endorsement key's public part"))?;
        subject_public_key_info(&public)
    }

    fn endorsement_certificates(&mut self) -> Result<Vec<Vec<u8>>, TpmError> {
        let (_, kind) = self.endorsement_handle()?;
        let own = match kind {
            AsymmetricAlgorithmSelection::Rsa(_) => RSA_2048_CERTIFICATE,
            AsymmetricAlgorithmSelection::Ecc(_) => P256_CERTIFICATE,
        };
        let doing = "listing the TPM's certificates";
        if !self.nv_indices_from(own, 1).map_err(failed(doing))?.contains(&own) {
            return Ok(Vec::new());
        }
        let mut indices = vec![own];
        let chain = self.nv_indices_from(*CERTIFICATE_CHAIN.start(), MAX_CHAIN).map_err(failed(doing))?;
        indices.extend(chain.into_iter().filter(|index| CERTIFICATE_CHAIN.contains(index)));
        let mut certificates = Vec::with_capacity(indices.len());
        for index in indices {
            // The operator decides whether it accepts a machine without a certificate.
            match self.read_nv(index).map(|bytes| (der_length(&bytes), bytes)) {
                // Vendors pad the index. The bytes behind the certificate are not part of it.
                Ok((Some(length), bytes)) => certificates.push(bytes[..length].to_vec()),
                Ok((None, _)) => tracing::warn!("NV index {index:#x} contains no DER certificate; it is left out"),
                Err(error) => tracing::warn!("reading the certificate in NV index {index:#x}: {error}; it is left out"),
            }
        }
        Ok(certificates)
    }

    fn attestation_key(&mut self) -> Result<Vec<u8>, TpmError> {
        let handle = self.attestation_handle()?;
        let doing = "reading the attestation key's public part";
        let (public, _, _) = self.context.read_public(handle).map_err(failed(doing))?;
        public.marshall().map_err(failed(doing))
    }

    fn activate(&mut self, credential: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        let (endorsement, _) = self.endorsement_handle()?;
        let attestation = self.attestation_handle()?;
        let doing = "answering the operator's credential challenge";
        let credential = IdObject::try_from(credential).map_err(failed(doing))?;
        let secret = EncryptedSecret::try_from(encrypted_secret).map_err(failed(doing))?;
        let session = self
            .context
            .start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .and_then(|session| {
                session.ok_or(tss_esapi::Error::WrapperError(tss_esapi::WrapperErrorKind::InvalidHandleState))
            })
            .map_err(failed(doing))?;
        let answer = activate_in(&mut self.context, session, attestation, endorsement, credential, secret);
        // A command that succeeds uses the session up, and one that fails leaves it: without the flush, three failures
        // would take every session slot. A flush that finds no session is therefore no error.
        let _ = self.context.flush_context(SessionHandle::from(session).into());
        answer.map_err(failed(doing))
    }

    fn quote(&mut self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, TpmError> {
        let attestation = self.attestation_handle()?;
        let mut make = || -> Result<Quote, tss_esapi::Error> {
            let slots = pcrs
                .iter()
                .map(|&pcr| 1u32.checked_shl(u32::from(pcr)).unwrap_or(0))
                .map(PcrSlot::try_from)
                .collect::<Result<Vec<_>, _>>()?;
            let selection = PcrSelectionListBuilder::new().with_selection(HashingAlgorithm::Sha256, &slots).build()?;
            let nonce = Data::try_from(nonce)?;
            let (attest, signature) = self
                .context
                .execute_with_nullauth_session(|c| c.quote(attestation, nonce, SignatureScheme::Null, selection))?;
            Ok(Quote { attest: attest.marshall()?, signature: signature.marshall()? })
        };
        make().map_err(failed("quoting the platform's measurements"))
    }

    fn info(&mut self) -> Result<TpmInfo, TpmError> {
        let mut property = |tag| {
            let value = self.context.get_tpm_property(tag).map_err(failed("reading the TPM's properties"))?;
            Ok(value.unwrap_or(0))
        };
        let manufacturer = property(PropertyTag::Manufacturer)?.to_be_bytes();
        let firmware = [property(PropertyTag::FirmwareVersion1)?, property(PropertyTag::FirmwareVersion2)?];
        Ok(TpmInfo {
            manufacturer: manufacturer.iter().filter(|b| b.is_ascii_graphic()).map(|b| char::from(*b)).collect(),
            firmware: format!("{:08x}{:08x}", firmware[0], firmware[1]),
        })
    }
}

/// Activates the credential. The endorsement key's policy requires PolicySecret(endorsement) before each use.
fn activate_in(
    context: &mut Context,
    session: AuthSession,
    attestation: KeyHandle,
    endorsement: KeyHandle,
    credential: IdObject,
    secret: EncryptedSecret,
) -> Result<Vec<u8>, tss_esapi::Error> {
    let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
    context.tr_sess_set_attributes(session, attributes, mask)?;
    let policy = PolicySession::try_from(session)?;
    context.execute_with_nullauth_session(|c| {
        c.policy_secret(
            policy,
            AuthHandle::Endorsement,
            Default::default(),
            Default::default(),
            Default::default(),
            None,
        )
    })?;
    let answer = context.execute_with_sessions((Some(AuthSession::Password), Some(session), None), |c| {
        c.activate_credential(attestation, endorsement, credential, secret)
    })?;
    Ok(answer.value().to_vec())
}

/// The key is P-256, because an RSA key takes seconds on hardware. It is restricted, so that it signs only data that
/// the TPM itself made.
fn attestation_template() -> Result<Public, tss_esapi::Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        // The empty password is no secret that could be guessed. If it were protected against dictionary attacks, a few
        // power cuts would lock the TPM: each one while a protected key is in use counts as a failed guess (TPM 2.0
        // Part 1, 19.8).
        .with_no_da(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::create(EccSchemeAlgorithm::EcDsa, Some(HashingAlgorithm::Sha256), None)?)
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

fn subject_public_key_info(public: &Public) -> Result<Vec<u8>, TpmError> {
    let der: PublicKeyX509Der = match public {
        Public::Rsa { unique, parameters, .. } => {
            // The value 0 means the default exponent (TPM 2.0 Library part 2, TPMS_RSA_PARMS).
            let exponent = match parameters.exponent().value() {
                0 => 65537u32,
                other => other,
            };
            let exponent = exponent.to_be_bytes();
            let significant = exponent.iter().position(|byte| *byte != 0).unwrap_or(0);
            RsaPublicKeyComponents { n: unique.value(), e: &exponent[significant..] }
                .as_der()
                .map_err(|_| TpmError::UnexpectedKey("an RSA key that is not valid"))?
        }
        Public::Ecc { unique, .. } => {
            let (x, y) = (unique.x().value(), unique.y().value());
            if x.len() > 32 || y.len() > 32 {
                return Err(TpmError::UnexpectedKey("a point that is not on P-256"));
            }
            // An uncompressed point (SEC 1, section 2.3.3) has coordinates of full length. The TPM may return shorter
            // ones.
            let mut point = [0u8; 65];
            point[0] = 4;
            point[33 - x.len()..33].copy_from_slice(x);
            point[65 - y.len()..].copy_from_slice(y);
            let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .map_err(|_| TpmError::UnexpectedKey("a point that is not on P-256"))?;
            key.as_der().map_err(|_| TpmError::UnexpectedKey("a point that is not on P-256"))?
        }
        _ => return Err(TpmError::UnexpectedKey("neither RSA nor elliptic curve")),
    };
    Ok(der.as_ref().to_vec())
}

/// Length of the DER SEQUENCE at the start in bytes, with its header. `None` if it is incomplete.
fn der_length(bytes: &[u8]) -> Option<usize> {
    let (value, rest) = AnyRef::from_der_partial(bytes).ok()?;
    (value.tag() == Tag::Sequence).then(|| bytes.len() - rest.len())
}

fn check_device(path: &Path) -> Result<(), TpmError> {
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(TpmError::NotPermitted(PathBuf::from(path)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(TpmError::Absent(PathBuf::from(path))),
        // After other errors, such as busy, the library opens the device and reports the device's own code.
        Err(_) => Ok(()),
    }
}

/// Whether the TPM does not support the algorithm or the key size, as opposed to failing while it creates the key.
fn means_unsupported(error: &tss_esapi::Error) -> bool {
    use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
    let tss_esapi::Error::Tss2Error(code) = error else { return false };
    matches!(code.kind(), Some(Kind::Asymmetric | Kind::Type | Kind::KeySize | Kind::Curve | Kind::Value))
}

fn failed(doing: &'static str) -> impl Fn(tss_esapi::Error) -> TpmError {
    move |source| TpmError::Failed { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_behind_a_certificate_is_cut_and_what_is_none_is_left_out() {
        assert_eq!(der_length(&[0x30, 2, 1, 1, 0xff, 0xff]), Some(4));
        assert_eq!(der_length(&[&[0x30, 0x82, 1, 0][..], &[0; 300]].concat()), Some(260));
        for none in [&[][..], &[0x30], &[0x30, 3, 1], &[0xff; 20], &[0x30, 0x82, 1], &[0x30, 0x84, 0, 0, 0, 1, 0]] {
            assert_eq!(der_length(none), None, "{none:x?}");
        }
    }

    #[test]
    fn a_missing_tpm_is_an_error_that_says_what_to_do() {
        let error = DeviceTpm::open("device:/nonexistent/tpmrm0").err().unwrap();
        assert!(matches!(error, TpmError::Absent(_)) && !error.may_succeed_later());
        assert!(error.to_string().contains("firmware setup"), "{error}");
        assert!(matches!(DeviceTpm::open("carrier-pigeon:").err().unwrap(), TpmError::Address(_)));
    }
}
