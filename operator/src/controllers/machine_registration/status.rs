//! The status of a registration.

use super::fetch::Found;
use crate::media;
use crate::registration;
use api::{Condition, Conditions, MachineRegistration, MachineRegistrationStatus, Problem, condition_type, reason};
use cloud_config::{CloudConfig, keys};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use protocol::RegistrationToken;
use std::collections::BTreeMap;

pub(super) fn build(
    object: &MachineRegistration,
    found: &Found,
    problem: Option<&Problem>,
    new_token: impl Fn() -> RegistrationToken,
) -> MachineRegistrationStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let token = kept(status.registration_token.as_deref()).unwrap_or_else(&new_token);
    let installed_token = kept(status.installed_token.as_deref()).unwrap_or_else(&new_token);
    let settings = registration::operator_settings(&found.endpoint, &installed_token);
    let generation = object.metadata.generation;
    match &settings {
        Ok(_) => status.conditions.remove_type(condition_type::SETTINGS_NOT_SENT),
        Err(Problem { reason, message }) => {
            let type_ = condition_type::SETTINGS_NOT_SENT;
            status.conditions.put(type_, true, reason, message, generation, &found.now);
        }
    }
    status.settings_revision = settings.ok().map(|settings| settings.revision.into());
    status.installed_token = Some(installed_token.expose().to_owned());
    status.machines_behind = found.machines_behind.unwrap_or(status.machines_behind);
    status.observed_generation = object.metadata.generation;
    status.registration_url = Some(registration::url(&found.endpoint, &token));
    status.registration_token = Some(token.expose().to_owned());
    if let Some(names) = &found.media {
        let urls = names.iter().map(|name| (name.clone(), media::url(&found.endpoint, &token, name)));
        status.media_urls = Some(urls.collect()).filter(|urls: &BTreeMap<_, _>| !urls.is_empty());
    }
    put_boot_urls(&mut status, found, new_token);
    status.machines = found.machines.unwrap_or(status.machines);
    put_cloud_config(&mut status.conditions, object, &found.now);
    match found.most.filter(|most| is_nearly(status.machines, *most)) {
        Some(most) => {
            let message =
                format!("{} of {most} machines have registered; raise spec.maxMachines to admit more", status.machines);
            let reason = reason::NEARLY_FULL;
            status.conditions.put(condition_type::NEARLY_FULL, true, reason, &message, generation, &found.now);
        }
        None => status.conditions.remove_type(condition_type::NEARLY_FULL),
    }
    match problem {
        None => {
            let message = if found.endpoint.is_inside_only() {
                "machines inside the cluster's network can register; for others set the chart's serverURL, an ingress \
                 or a load balancer"
            } else {
                "machines can register"
            };
            status.conditions.put(condition_type::READY, true, reason::AVAILABLE, message, generation, &found.now);
            status.conditions.remove_type(condition_type::STALLED);
        }
        Some(Problem { reason, message }) => {
            status.conditions.put(condition_type::READY, false, reason, message, generation, &found.now);
            status.conditions.put(condition_type::STALLED, true, reason, message, generation, &found.now);
        }
    }
    status
}

/// The token of a status, unless it is missing or somebody has mistyped it.
fn kept(token: Option<&str>) -> Option<RegistrationToken> {
    token?.parse().ok()
}

/// Without a listener there is no boot token: a listener that comes back has another one.
fn put_boot_urls(status: &mut MachineRegistrationStatus, found: &Found, new_token: impl FnOnce() -> RegistrationToken) {
    let Some(listener) = &found.boot_listener else {
        (status.boot_token, status.boot_urls) = (None, None);
        return;
    };
    let token = kept(status.boot_token.as_deref()).unwrap_or_else(new_token);
    if let Some(names) = &found.network_media {
        let urls = names.iter().map(|name| (name.clone(), listener.urls(&found.endpoint, &token, name)));
        status.boot_urls = Some(urls.collect()).filter(|urls: &BTreeMap<_, _>| !urls.is_empty());
    }
    status.boot_token = Some(token.expose().to_owned());
}

/// Sets the condition about keys of the cloud-config that machines do not apply. They register nevertheless.
fn put_cloud_config(conditions: &mut Vec<Condition>, object: &MachineRegistration, now: &Time) {
    let Some(config) = &object.spec.cloud_config else {
        return conditions.remove_type(condition_type::CLOUD_CONFIG_APPLICABLE);
    };
    let unapplied = keys::unapplied_or_unknown(&CloudConfig(config.clone()));
    let (reason, message) = if unapplied.is_empty() {
        (reason::ALL_KEYS_APPLIED, "machines apply every key of spec.cloudConfig".to_owned())
    } else {
        let places = keys::summary(&unapplied);
        (reason::KEYS_NOT_APPLIED, format!("machines do not apply these keys of spec.cloudConfig: {places}"))
    };
    let type_ = condition_type::CLOUD_CONFIG_APPLICABLE;
    conditions.put(type_, unapplied.is_empty(), reason, &message, object.metadata.generation, now);
}

/// Whether nine tenths of the admitted machines have registered.
fn is_nearly(machines: u32, most: u32) -> bool {
    u64::from(machines) * 10 >= u64::from(most) * 9
}
