//! Reads everything that the status of a registration depends on.

use super::ReconcileError;
use crate::context::Context;
use crate::media::network_boot::BootListener;
use crate::registration::Registration;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::Authorities;
use api::{MachineRegistration, Problem, reason};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::Api;
use protocol::OperatorSettings;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::sync::Arc;

/// Everything that the status depends on, besides the registration.
pub(super) struct Found {
    pub(super) endpoint: Endpoint,
    /// `None`: not counted yet.
    pub(super) machines: Option<u32>,
    /// Installed machines without the current settings. `None`: not counted yet.
    pub(super) machines_behind: Option<u32>,
    /// How many machines may register. `None`: any number.
    pub(super) most: Option<u32>,
    /// `None`: the registration names none.
    pub(super) authorities: Option<Result<Authorities, Problem>>,
    /// The authorities of TPM vendors, for registrations that name none.
    pub(super) vendors: Authorities,
    /// File names of media. `None`: not scanned yet.
    pub(super) media: Option<Vec<String>>,
    /// The same of media from which a machine can start over the network.
    pub(super) network_media: Option<Vec<String>>,
    /// `None`: the operator serves no network boots.
    pub(super) boot_listener: Option<BootListener>,
    pub(super) now: Time,
}

pub(super) async fn fetch(object: &MachineRegistration, context: &Context) -> Result<Found, ReconcileError> {
    let namespace = object.namespace().unwrap_or_default();
    let count = context.inventory.index.published(&namespace, &object.name_any());
    let trusted = object.spec.attestation.as_ref().and_then(|policy| policy.trusted_cas.as_ref());
    let authorities = match trusted {
        None => None,
        Some(trusted) => {
            let secret = Api::<Secret>::namespaced(context.client.clone(), &namespace)
                .get_opt(&trusted.secret_name)
                .await
                .map_err(|source| ReconcileError::Reading {
                    what: format!("Secret {}", trusted.secret_name),
                    source,
                })?;
            Some(read_authorities(&trusted.secret_name, secret.as_ref()))
        }
    };
    let endpoint = context.endpoint();
    let settings =
        Registration::of(object).operator_settings(&endpoint).filter(|_| context.inventory.index.is_complete());
    let behind = |newest: OperatorSettings| {
        context.inventory.index.behind(&namespace, &object.name_any(), newest.revision.as_str())
    };
    Ok(Found {
        endpoint,
        machines_behind: settings.map(behind).map(|count| count.try_into().unwrap_or(u32::MAX)),
        machines: count.map(|count| count.try_into().unwrap_or(u32::MAX)),
        most: object.spec.max_machines.or(context.registrations.default_most),
        authorities,
        vendors: context.tpm_vendors.clone(),
        media: context.media.names(),
        network_media: context.media.network_names(),
        boot_listener: context.boot_listener.clone(),
        now: context.now(),
    })
}

pub(super) fn read_authorities(name: &str, secret: Option<&Secret>) -> Result<Authorities, Problem> {
    let Some(secret) = secret else {
        let message =
            format!("Secret {name} of spec.attestation.trustedCAs does not exist in this namespace; create it");
        return Err(Problem { reason: reason::TRUST_MISSING, message });
    };
    let mut authorities = Vec::new();
    for (key, value) in secret.data.iter().flatten() {
        for certificate in CertificateDer::pem_slice_iter(&value.0) {
            let certificate = certificate.map_err(|error| Problem {
                reason: reason::TRUST_MALFORMED,
                message: format!("key {key} of Secret {name} is not PEM: {error}"),
            })?;
            authorities.push(certificate.to_vec());
        }
    }
    if authorities.is_empty() {
        let message = format!("Secret {name} contains no PEM certificate");
        return Err(Problem { reason: reason::TRUST_MALFORMED, message });
    }
    Ok(Arc::new(authorities))
}
