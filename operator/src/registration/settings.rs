//! The settings that installed machines get: the registration URL and the authorities to trust.

use crate::digest::sha256;
use crate::registration::endpoint::Endpoint;
use crate::registration::url;
use api::{Problem, reason};
use protocol::bounded::cut;
use protocol::operator_settings::{MAX_AUTHORITIES, MalformedRevision};
use protocol::{OperatorSettings, RegistrationToken};
use x509_cert::Certificate;
use x509_cert::der::DecodePem;

/// The settings for machines that report with this token, or why they cannot be sent.
pub fn operator_settings(
    endpoint: &Endpoint,
    installed_token: &RegistrationToken,
) -> Result<OperatorSettings, Problem> {
    let unfit = |message: &str| Problem { reason: reason::SETTINGS_UNFIT, message: message.to_owned() };
    let registration_url = url(endpoint, installed_token);
    let authorities = certificates(&endpoint.ca_bundle);
    if let Some(message) = too_many(&authorities) {
        return Err(Problem { reason: reason::TOO_MANY_AUTHORITIES, message });
    }
    let revision = revision(&registration_url, &authorities).parse();
    let revision = revision.map_err(|error: MalformedRevision| unfit(&error.to_string()))?;
    let settings = OperatorSettings { revision, registration_url, authorities };
    settings.check().map_err(unfit)?;
    Ok(settings)
}

/// The message about more authorities than a machine can store. It names those that expire first.
fn too_many(authorities: &[String]) -> Option<String> {
    const NAMED: usize = 8;
    let over = authorities.len().checked_sub(MAX_AUTHORITIES).filter(|over| *over > 0)?;
    let mut read: Vec<_> = authorities.iter().filter_map(|pem| Certificate::from_pem(pem).ok()).collect();
    read.sort_by_key(|certificate| certificate.tbs_certificate().validity().not_after.to_unix_duration());
    let names = read.iter().take(over.min(NAMED)).map(|certificate| {
        let certificate = certificate.tbs_certificate();
        format!("{} (until {})", cut(&certificate.subject().to_string(), 256), certificate.validity().not_after)
    });
    let names = names.collect::<Vec<_>>().join("; ");
    let names = if names.is_empty() { names } else { format!("; those that expire first: {names}") };
    Some(format!(
        "the operator does not send new settings to installed machines: a machine stores at most {MAX_AUTHORITIES} \
         authorities, and there are {}; remove {over} that no server needs from their source (`ca.crt` in the chart's \
         tls.secretName, the chart's tls.ca, or Rancher's setting cacerts){names}",
        authorities.len()
    ))
}

/// The certificates of a PEM bundle, unchanged.
fn certificates(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let blocks = bundle.split_inclusive(END).map(|block| match block.find("-----BEGIN CERTIFICATE-----") {
        Some(begin) => &block[begin..],
        None => "",
    });
    blocks.filter(|block| block.ends_with(END)).map(|block| format!("{block}\n")).collect()
}

/// The revision of settings: 64 bits of the SHA-256 of their content, as hex digits.
fn revision(url: &str, authorities: &[String]) -> String {
    let parts = std::iter::once(url).chain(authorities.iter().map(String::as_str));
    // No part contains a zero byte.
    let content = parts.collect::<Vec<_>>().join("\0");
    hex::encode(&sha256(content.as_bytes())[..8])
}
