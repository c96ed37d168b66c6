//! The controller of MachineRegistration: creates its token and URL, and sets conditions that say whether machines can use
//! them.
//!
//! A deleted registration admits no machine from then on; the machines that registered through it stay.

use super::{DEBOUNCE, ReconcileError, drain, on_error};
use crate::context::Context;
use crate::kube::clock::clock_jumps;
use crate::kube::status_writer::StatusPatch;
use crate::kube::watch::keep_watching;
use crate::media;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::Authorities;
use crate::registration::{self, Registration};
use api::Problem;
use api::{Condition, Conditions, MachineRegistration, MachineRegistrationStatus, condition_type, reason};
use cloud_config::{CloudConfig, keys};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use protocol::{OperatorSettings, RegistrationToken};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often `status.machines` follows the inventory, at most.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// How often a Secret of trusted authorities is read again.
const AUTHORITIES_EVERY: Duration = Duration::from_secs(300);
const AUTHORITIES_MISSING: Duration = Duration::from_secs(15);

pub(super) async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (reader, writer) = store();
    let index = context.clone();
    let all = Api::<MachineRegistration>::all(context.client.clone());
    let objects = keep_watching(all, watcher::Config::default(), "MachineRegistration")
        .inspect(move |event| {
            if let Ok(event) = event {
                index.registrations.apply(event);
            }
        })
        .reflect(writer)
        .applied_objects();
    let controller = Controller::for_stream(objects, reader)
        .with_config(Config::default().debounce(Duration::from_millis(50)))
        .reconcile_on(changed_counts(context.clone()))
        .reconcile_all_on(context.leadership.begins())
        // The status of each registration contains the URL and the media, and its answers contain the authorities.
        .reconcile_all_on(changes(context.endpoint.clone()))
        .reconcile_all_on(changes(context.media.watch()))
        // The requeue for `expiresAt` is computed in monotonic time.
        .reconcile_all_on(clock_jumps(context.clock))
        .graceful_shutdown_on(stop);
    drain(controller.run(timed, on_error, context)).await;
}

/// Registrations whose number of machines has changed.
fn changed_counts(context: Arc<Context>) -> impl Stream<Item = ObjectRef<MachineRegistration>> + Send {
    stream::unfold(context, |context| async {
        tokio::time::sleep(COUNT_EVERY).await;
        let changed = context.inventory.index.take_changed();
        let changed = changed.into_iter().map(|(namespace, name)| ObjectRef::new(&name).within(&namespace));
        Some((stream::iter(changed.collect::<Vec<_>>()), context))
    })
    .flatten()
}

fn changes<T: Send + Sync>(told: watch::Receiver<T>) -> impl Stream<Item = ()> + Send {
    stream::unfold(told, |mut told| async {
        told.changed().await.ok()?;
        Some(((), told))
    })
}

async fn timed(object: Arc<MachineRegistration>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    context.metrics.time_reconciliation("MachineRegistration", reconcile(object, &context)).await
}

async fn reconcile(object: Arc<MachineRegistration>, context: &Context) -> Result<Action, ReconcileError> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let found = fetch(&object, context).await?;
    let problem = validate(&object, &found);
    let status = build(&object, &found, problem.as_ref(), new_token);
    // Every replica uses the authorities; only the leader writes the status.
    open(&object, context, &found);
    context.leadership.act(write(&object, context, &status)).await.transpose()?;
    Ok(requeue_after(&object, &found))
}

/// Everything that the status depends on, besides the registration.
struct Found {
    endpoint: Endpoint,
    /// `None`: not counted yet.
    machines: Option<u32>,
    /// Installed machines without the current settings. `None`: not counted yet.
    machines_behind: Option<u32>,
    /// How many machines may register. `None`: any number.
    most: Option<u32>,
    /// `None`: the registration names none.
    authorities: Option<Result<Authorities, Problem>>,
    /// The authorities of TPM vendors, for registrations that name none.
    vendors: Authorities,
    /// File names of media. `None`: not scanned yet.
    media: Option<Vec<String>>,
    now: Time,
}

async fn fetch(object: &MachineRegistration, context: &Context) -> Result<Found, ReconcileError> {
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
        now: context.now(),
    })
}

fn validate(object: &MachineRegistration, found: &Found) -> Option<Problem> {
    let registration = Registration::of(object);
    if let Err(problem) = &registration.templates {
        return Some(problem.clone());
    }
    if let Err(problem) = registration::check_size(&registration, &found.endpoint) {
        return Some(problem);
    }
    if let Some(Err(problem)) = &found.authorities {
        return Some(problem.clone());
    }
    if let Some(problem) = registration::without_authority(&object.spec, &found.vendors) {
        return Some(problem);
    }
    if let Some(refusal) = crate::registration::decide::expired(&registration, found.now.0) {
        return Some(Problem { reason: reason::EXPIRED, message: refusal.message });
    }
    if let Some(most) = found.most.filter(|most| found.machines.is_some_and(|machines| machines >= *most)) {
        let message = format!("all {most} machines that it admits have come; raise spec.maxMachines to admit more");
        return Some(Problem { reason: reason::FULL, message });
    }
    None
}

fn build(
    object: &MachineRegistration,
    found: &Found,
    problem: Option<&Problem>,
    new_token: impl Fn() -> RegistrationToken,
) -> MachineRegistrationStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let kept = |token: &Option<String>| token.as_deref().and_then(|token| token.parse::<RegistrationToken>().ok());
    let token = kept(&status.registration_token).unwrap_or_else(&new_token);
    let installed_token = kept(&status.installed_token).unwrap_or_else(&new_token);
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
    status.machines = found.machines.unwrap_or(status.machines);
    put_cloud_config(&mut status.conditions, object, &found.now);
    match found.most.filter(|most| is_nearly(status.machines, *most)) {
        Some(most) => {
            let message =
                format!("{} of {most} machines have come; raise spec.maxMachines to admit more", status.machines);
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

/// Sets the condition about keys of the cloud-config that machines do not apply. They register nevertheless.
fn put_cloud_config(conditions: &mut Vec<Condition>, object: &MachineRegistration, now: &Time) {
    let Some(config) = &object.spec.cloud_config else {
        return conditions.remove_type(condition_type::CLOUD_CONFIG_APPLICABLE);
    };
    let unapplied = keys::unapplied_or_unknown(&CloudConfig(config.clone()));
    let (reason, message) = if unapplied.is_empty() {
        (reason::ALL_KEYS_APPLIED, "machines apply all of spec.cloudConfig".to_owned())
    } else {
        let places = keys::summary(&unapplied);
        (reason::KEYS_NOT_APPLIED, format!("machines do not apply, of spec.cloudConfig: {places}"))
    };
    let type_ = condition_type::CLOUD_CONFIG_APPLICABLE;
    conditions.put(type_, unapplied.is_empty(), reason, &message, object.metadata.generation, now);
}

/// Whether nine tenths of the admitted machines have registered.
fn is_nearly(machines: u32, most: u32) -> bool {
    u64::from(machines) * 10 >= u64::from(most) * 9
}

/// Makes the authorities known to the server.
fn open(object: &MachineRegistration, context: &Context, found: &Found) {
    let authorities = found.authorities.as_ref().and_then(|read| read.as_ref().ok()).cloned();
    context.registrations.set_authorities(&object.namespace().unwrap_or_default(), &object.name_any(), authorities);
}

async fn write(
    object: &MachineRegistration,
    context: &Context,
    status: &MachineRegistrationStatus,
) -> Result<(), ReconcileError> {
    let before = object.status.clone().unwrap_or_default();
    // With the resource version, so that if two replicas create a token, one write fails.
    let Some(patch) = StatusPatch::between(&before, status, object.resource_version()) else { return Ok(()) };
    let api = Api::<MachineRegistration>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    patch
        .write(&api, &object.name_any())
        .await
        .map_err(|source| ReconcileError::Writing { what: ObjectRef::from_obj(object).to_string(), source })?;
    let ready = |status: &MachineRegistrationStatus| status.conditions.find(condition_type::READY).cloned();
    if let Some(after) = ready(status)
        && ready(&before).is_none_or(|before| before.reason != after.reason)
    {
        let warning = after.reason != reason::AVAILABLE;
        context.events.publish(object.object_ref(&()), warning, &after.reason, &after.message);
    }
    Ok(())
}

/// When to reconcile without an event.
fn requeue_after(object: &MachineRegistration, found: &Found) -> Action {
    let expires = object.spec.expires_at.as_ref().map(|time| time.0.as_second() - found.now.0.as_second());
    let expires = expires.and_then(|seconds| u64::try_from(seconds).ok()).map(|left| Duration::from_secs(left + 1));
    let authorities = found.authorities.as_ref().map(|read| match read {
        Ok(_) => AUTHORITIES_EVERY,
        Err(_) => AUTHORITIES_MISSING,
    });
    let count = found.machines.is_none().then_some(COUNT_EVERY);
    match [expires, authorities, count].into_iter().flatten().min() {
        Some(after) => Action::requeue(after.max(DEBOUNCE)),
        None => Action::await_change(),
    }
}

fn read_authorities(name: &str, secret: Option<&Secret>) -> Result<Authorities, Problem> {
    let Some(secret) = secret else {
        let message = format!("Secret {name} of spec.attestation.trustedCAs does not exist in this namespace");
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
        let message = format!("Secret {name} holds no PEM certificate");
        return Err(Problem { reason: reason::TRUST_MALFORMED, message });
    }
    Ok(Arc::new(authorities))
}

fn new_token() -> RegistrationToken {
    RegistrationToken::generate(|| {
        let mut byte = [0];
        // The operating system's generator does not fail once it is seeded; a failure here must not weaken a token.
        aws_lc_rs::rand::fill(&mut byte).expect("the operating system gives random bytes");
        byte[0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    fn found() -> Found {
        Found {
            endpoint: Endpoint { server_url: "https://ros".into(), ca_bundle: "PEM".into() },
            machines: Some(2),
            machines_behind: Some(1),
            most: None,
            authorities: None,
            vendors: Authorities::default(),
            media: Some(Vec::new()),
            now: Time(Timestamp::from_second(1_800_000_000).unwrap()),
        }
    }
    fn object(spec: serde_json::Value) -> MachineRegistration {
        let mut object = MachineRegistration::new("door", serde_json::from_value(spec).unwrap());
        object.metadata.generation = Some(3);
        object
    }
    fn status_of(object: &MachineRegistration, found: &Found) -> MachineRegistrationStatus {
        build(object, found, validate(object, found).as_ref(), || "t".repeat(54).parse().unwrap())
    }

    #[test]
    fn a_new_registration_gets_a_token_and_a_second_look_changes_nothing() {
        let mut object = object(json!({}));
        let status = status_of(&object, &found());
        assert!(status.conditions.holds(condition_type::READY));
        assert!(status.registration_url.as_ref().unwrap().ends_with(&"t".repeat(54)));
        assert_eq!((status.observed_generation, status.machines, status.machines_behind), (Some(3), 2, 1));
        object.status = Some(status.clone());
        let told = Registration::of(&object).operator_settings(&found().endpoint).unwrap();
        assert_eq!(status.settings_revision.as_deref(), Some(told.revision.as_str()));
        object.status = Some(status.clone());
        let later = Found { now: Time(Timestamp::from_second(1_800_009_999).unwrap()), ..found() };
        let again = build(&object, &later, None, || unreachable!("the token is kept"));
        assert_eq!(again, status);
    }

    #[test]
    fn more_authorities_than_a_machine_keeps_are_named_and_nothing_is_sent() {
        let authority = |number: usize| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {number}"));
            params.not_after = rcgen::date_time_ymd(2030 + i32::try_from(number).unwrap(), 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let of = |count: usize| {
            let ca_bundle = (0..count).rev().map(authority).collect();
            let status = status_of(
                &object(json!({})),
                &Found { endpoint: Endpoint { ca_bundle, ..found().endpoint }, ..found() },
            );
            assert!(status.conditions.holds(condition_type::READY), "machines register all the same");
            (status.settings_revision, status.conditions.find(condition_type::SETTINGS_NOT_SENT).cloned())
        };
        assert!(matches!(of(16), (Some(_), None)));
        let (revision, condition) = of(18);
        let condition = condition.unwrap();
        assert_eq!((revision, &*condition.reason), (None, reason::TOO_MANY_AUTHORITIES));
        let message = &condition.message;
        for words in ["18", "take 2", "CN=authority 0 (until 2030-01-01", "CN=authority 1 ", "ca.crt"] {
            assert!(message.contains(words), "{words}: {message}");
        }
        assert!(!message.contains("CN=authority 2 "), "{message}");
    }

    #[test]
    fn media_are_listed_as_they_are_and_kept_while_nothing_is_known() {
        let listing =
            |names: &[&str]| Found { media: Some(names.iter().map(|n| (*n).to_owned()).collect()), ..found() };
        let mut object = object(json!({}));
        let status = status_of(&object, &listing(&["a.iso", "b.iso"]));
        let urls = status.media_urls.clone().unwrap();
        let token = "t".repeat(54);
        assert_eq!(urls["b.iso"], format!("https://ros/v1-rancheros/media/{token}/b.iso"));
        object.status = Some(status.clone());
        assert_eq!(status_of(&object, &Found { media: None, ..found() }), status);

        let fewer = status_of(&object, &listing(&["b.iso"]));
        assert_eq!(fewer.media_urls.unwrap().into_keys().collect::<Vec<_>>(), ["b.iso"]);
        assert_eq!(status_of(&object, &listing(&[])).media_urls, None);
    }

    #[test]
    fn every_problem_has_its_reason() {
        let cases = [
            (json!({"machineName": "${"}), reason::INVALID_TEMPLATE),
            (json!({"cloudConfig": {"a": "x".repeat(300_000)}}), reason::CLOUD_CONFIG_TOO_LARGE),
            (json!({"expiresAt": "2020-01-01T00:00:00Z"}), reason::EXPIRED),
            (json!({"maxMachines": 2}), reason::FULL),
            (json!({"attestation": {"ekCertificate": "Required"}}), reason::TRUST_MISSING),
        ];
        for (spec, reason) in cases {
            let object = object(spec);
            let status = status_of(&object, &Found { most: object.spec.max_machines, ..found() });
            let ready = status.conditions.find(condition_type::READY).unwrap();
            assert_eq!(ready.reason, reason);
            assert!(status.conditions.holds(condition_type::STALLED));
        }
        let with_room = Found { most: Some(3), ..found() };
        assert!(status_of(&object(json!({})), &with_room).conditions.holds(condition_type::READY));
        let required = object(json!({"attestation": {"ekCertificate": "Required"}}));
        let with_vendors = Found { vendors: Authorities::new(vec![vec![0]]), ..found() };
        assert!(status_of(&required, &with_vendors).conditions.holds(condition_type::READY));
    }

    #[test]
    fn what_of_a_cloud_config_is_not_applied_is_said() {
        let condition = |spec: serde_json::Value| {
            let status = status_of(&object(spec), &found());
            assert!(status.conditions.holds(condition_type::READY));
            status.conditions.find(condition_type::CLOUD_CONFIG_APPLICABLE).cloned()
        };
        assert!(condition(json!({})).is_none());
        let good =
            condition(json!({"cloudConfig": {"hostname": "h", "rancheros": {"install": {"device": "/dev/vda"}}}}));
        assert_eq!(good.unwrap().reason, reason::ALL_KEYS_APPLIED);
        let wrong = json!({"pakages": ["vim"], "users": [{"name": "u", "uid": "s3cret"}], "rancheros": {"install": {"devcie": 1}}});
        let wrong = condition(json!({"cloudConfig": wrong})).unwrap();
        assert_eq!(wrong.reason, reason::KEYS_NOT_APPLIED);
        assert!(wrong.message.ends_with(": users[0].uid, pakages, rancheros.install.devcie"), "{}", wrong.message);
    }

    #[test]
    fn at_nine_tenths_it_is_said_and_machines_go_on_coming() {
        let of = |machines, most| status_of(&object(json!({})), &Found { machines: Some(machines), most, ..found() });
        for (machines, most, nearly) in [
            (8_999, Some(10_000), false),
            (9_000, Some(10_000), true),
            (10_000, Some(10_000), true),
            (9_000, None, false),
        ] {
            let status = of(machines, most);
            assert_eq!(status.conditions.holds(condition_type::NEARLY_FULL), nearly, "{machines}");
            assert_eq!(status.conditions.holds(condition_type::READY), machines < 10_000);
        }
        let message = of(9_000, Some(10_000)).conditions.find(condition_type::NEARLY_FULL).unwrap().message.clone();
        assert!(message.contains("9000 of 10000") && message.contains("spec.maxMachines"), "{message}");
    }

    #[test]
    fn a_url_that_leads_nowhere_outside_says_what_to_set() {
        let endpoint = Endpoint { server_url: "https://ros.ns.svc:8443".into(), ca_bundle: "PEM".into() };
        let status = status_of(&object(json!({})), &Found { endpoint, ..found() });
        let ready = status.conditions.find(condition_type::READY).unwrap();
        assert!(ready.message.contains("serverURL"), "{}", ready.message);
    }

    #[test]
    fn authorities_are_read_from_every_key() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let secret = |text: &str| Secret {
            data: Some([("a".into(), ByteString(text.into())), ("b".into(), ByteString(pem.into()))].into()),
            ..Secret::default()
        };
        assert_eq!(read_authorities("s", Some(&secret(&pem.repeat(2)))).unwrap().len(), 3);
        assert_eq!(read_authorities("s", None).unwrap_err().reason, reason::TRUST_MISSING);
        let cut = read_authorities("s", Some(&secret("-----BEGIN CERTIFICATE-----\nAAAA")));
        assert_eq!(cut.unwrap_err().reason, reason::TRUST_MALFORMED);
        assert_eq!(read_authorities("s", Some(&Secret::default())).unwrap_err().reason, reason::TRUST_MALFORMED);
    }

    #[test]
    fn an_expiry_is_looked_at_when_it_comes() {
        let object = object(json!({"expiresAt": "2027-01-15T08:01:00Z"}));
        assert_eq!(requeue_after(&object, &found()), Action::requeue(Duration::from_secs(61)));
        assert_eq!(requeue_after(&self::object(json!({})), &found()), Action::await_change());
    }
}
