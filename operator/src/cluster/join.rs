//! How a machine joins its cluster. The inventory endpoint and the answer to a report use the same configuration.

use crate::cluster::rancher::{Rancher, ReadOutcome};
use crate::inventory::index::{Key, KnownMachine};
use crate::registration;
use crate::registration::decide;
use crate::registration::endpoint::Endpoint;
use crate::registration::index::RegistrationIndex;
use api::{ConditionStatus, Conditions, MachineConfig, condition_type};
use k8s_openapi::api::core::v1::Taint;
use protocol::{Join, JoinConfiguration, Refusal, RefusalCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// Deadline of reading a token.
const DEADLINE: Duration = Duration::from_secs(5);
/// Seconds after which a machine should come back for a token that does not exist yet.
const RETRY_AFTER: u64 = 15;

/// The configuration of a machine that has proved its identity. `None`: it is not assigned to a cluster or a role.
pub async fn configuration(
    rancher: &Rancher,
    registrations: &RegistrationIndex,
    endpoint: &Endpoint,
    machine: &KnownMachine,
) -> Result<Option<JoinConfiguration>, Refusal> {
    let mut config = machine.config().cloned().unwrap_or_default();
    if config.node_name.as_ref().is_none_or(|name| name.is_empty()) {
        config.node_name = node_name(registrations, machine);
    }
    match decide(machine)? {
        Decision::Nothing => Ok(None),
        Decision::Settings => render(config, None).map(Some),
        Decision::Token(key) => {
            let token = read_token(rancher, machine, &key).await?;
            let server = rancher_elsewhere(rancher, endpoint).await?;
            render(config, Some(ClusterToken { token, server })).map(Some)
        }
    }
}

/// The Node name of a machine whose inventory gives none: its host name. `None`: the machine has the name from its
/// registration's cloud-config, or from a registration that is deleted.
fn node_name(registrations: &RegistrationIndex, machine: &KnownMachine) -> Option<String> {
    if let Some(name) = &machine.registration {
        let registration = registrations.get(&machine.namespace, name)?;
        if registration.names_nodes() {
            return None;
        }
    }
    Some(registration::node_name(&registration::host_name(machine)))
}

/// The token that Rancher has issued for a machine.
struct ClusterToken {
    token: String,
    /// Rancher's URL, if it differs from the operator's.
    server: Option<String>,
}

/// The same for the answer to a report. An error does not refuse the report.
pub async fn join(
    rancher: &Rancher,
    registrations: &RegistrationIndex,
    endpoint: &Endpoint,
    machine: &KnownMachine,
) -> Join {
    let cluster = machine.cluster().map(str::to_owned);
    match configuration(rancher, registrations, endpoint, machine).await {
        Ok(configuration) => Join { cluster, configuration: Some(configuration.unwrap_or_default()), pending: None },
        Err(refusal) => Join { cluster, configuration: None, pending: Some(refusal) },
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Nothing,
    /// `spec.config`, without a cluster of Rancher's.
    Settings,
    /// `spec.config` and the token with this namespace and name.
    Token(Key),
}

fn decide(machine: &KnownMachine) -> Result<Decision, Refusal> {
    let name = || format!("{}/{}", machine.namespace, machine.name);
    if machine.deleting {
        let message = format!("MachineInventory {} is being deleted; register the machine again", name());
        return Err(Refusal::new(RefusalCode::UnknownMachine, message));
    }
    if machine.approved == Some(false) {
        return Err(decide::approval_pending(&name()));
    }
    let Some(cluster) = machine.cluster() else {
        return Ok(if machine.config().is_none() { Decision::Nothing } else { Decision::Settings });
    };
    let assigned = machine.status.conditions.find(condition_type::ASSIGNED);
    // A condition of an older generation, and its token, may be those of another cluster.
    let current = assigned.filter(|condition| condition.observed_generation == machine.generation);
    let status = &machine.status;
    let names = (&status.cluster_registration_token_namespace, &status.cluster_registration_token_name);
    match (current, names) {
        (Some(condition), (Some(namespace), Some(name))) if condition.status == ConditionStatus::True => {
            Ok(Decision::Token((namespace.clone(), name.clone())))
        }
        (Some(condition), _) => Err(pending(format!("{}: {}", condition.reason, condition.message))),
        (None, _) => Err(pending(format!("the operator has not looked for cluster {cluster} yet"))),
    }
}

fn pending(message: String) -> Refusal {
    Refusal::new(RefusalCode::ClusterTokenPending, message).retry_after(RETRY_AFTER)
}

async fn read_token(rancher: &Rancher, machine: &KnownMachine, key: &Key) -> Result<String, Refusal> {
    let issued = match in_time(rancher.token(key)).await? {
        ReadOutcome::Found(token) if token.is_of(machine) => token.token,
        _ => None,
    };
    issued.ok_or_else(|| pending("the token was deleted; the operator will create another one".to_owned()))
}

/// Rancher's URL if it differs from the operator's: machines register with the operator and join through Rancher.
async fn rancher_elsewhere(rancher: &Rancher, endpoint: &Endpoint) -> Result<Option<String>, Refusal> {
    let url = in_time(rancher.server_url()).await?;
    Ok(Some(url).filter(|url| !url.is_empty() && *url != endpoint.server_url))
}

async fn in_time<T>(question: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    let unavailable = |error: String| {
        tracing::warn!(error, "reading how a machine joins its cluster");
        let message = "the operator cannot read the cluster's token at the moment";
        Refusal::new(RefusalCode::Unavailable, message).retry_after(RETRY_AFTER)
    };
    let answer = timeout(DEADLINE, question).await;
    let answer = answer.map_err(|_| unavailable(format!("no answer within {} s", DEADLINE.as_secs())))?;
    answer.map_err(|error| unavailable(error.to_string()))
}

/// The configuration in the form of the first release: unset fields are left out, labels and taints are text.
fn render(config: MachineConfig, issued: Option<ClusterToken>) -> Result<JoinConfiguration, Refusal> {
    let mut fields = config.cloud_config;
    let (token, server) = issued.map(|issued| (issued.token, issued.server)).unzip();
    // A server in the inventory's spec.config takes precedence.
    if let Some(server) = server.flatten() {
        fields.entry("server").or_insert(server.into());
    }
    let texts = [
        ("role", &config.role),
        ("nodeName", &config.node_name),
        ("address", &config.address),
        ("internalAddress", &config.internal_address),
        ("token", &token),
    ];
    for (name, text) in texts {
        if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
            fields.insert(name.to_owned(), text.as_str().into());
        }
    }
    let taints: Vec<Value> = config.taints.iter().flatten().map(|taint| taint_text(taint).into()).collect();
    let labels: Vec<Value> =
        config.labels.iter().flatten().map(|(key, value)| format!("{key}={value}").into()).collect();
    for (name, list) in [("taints", taints), ("labels", labels)] {
        if !list.is_empty() {
            fields.insert(name.to_owned(), json!(list));
        }
    }
    let configuration = JoinConfiguration(fields);
    let bytes = serde_json::to_vec(&configuration).map_or(usize::MAX, |json| json.len());
    if bytes > JoinConfiguration::MAX_BYTES {
        let message =
            format!("spec.config has {bytes} bytes as JSON; shorten it to at most {}", JoinConfiguration::MAX_BYTES);
        return Err(Refusal::new(RefusalCode::MessageTooBig, message));
    }
    Ok(configuration)
}

/// `key=value:Effect`, as `kubectl taint` and kubelet's `--register-with-taints` write it.
fn taint_text(taint: &Taint) -> String {
    let value = taint.value.as_deref().filter(|value| !value.is_empty());
    let key = value.map_or_else(|| taint.key.clone(), |value| format!("{}={value}", taint.key));
    if taint.effect.is_empty() { key } else { format!("{key}:{}", taint.effect) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::fixtures::{self, FakeApi};
    use crate::inventory::index::KnownMachine;
    use api::reason;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn machine(spec: Value) -> KnownMachine {
        KnownMachine { generation: Some(2), ..KnownMachine::of(fixtures::inventory("a", spec)) }
    }

    /// The same machine with a token in its status. The condition `Assigned` is for this generation.
    fn assigned(spec: Value, generation: i64) -> KnownMachine {
        let mut machine = machine(spec);
        let now = Time(Timestamp::from_second(0).unwrap());
        let conditions = &mut machine.status.conditions;
        conditions.put(condition_type::ASSIGNED, true, reason::TOKEN_ISSUED, "", Some(generation), &now);
        machine.status.cluster_registration_token_namespace = Some("c-1".into());
        machine.status.cluster_registration_token_name = Some("c-1-a-token".into());
        machine
    }

    #[test]
    fn taints_and_labels_are_rendered_as_text() {
        let config: MachineConfig = serde_json::from_value(json!({
            "role": "server", "nodeName": "one", "address": "192.0.2.1", "internalAddress": "10.0.0.1",
            "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}, {"key": "bare", "effect": "NoExecute"}],
            "labels": {"b": "2", "a": "1"}, "kubernetesVersion": "v1.33",
        }))
        .unwrap();
        let issued = ClusterToken { token: "t".into(), server: None };
        let answer = render(config, Some(issued)).unwrap();
        assert_eq!(
            Value::Object(answer.0),
            json!({
                "role": "server", "nodeName": "one", "address": "192.0.2.1", "internalAddress": "10.0.0.1",
                "taints": ["k=v:NoSchedule", "bare:NoExecute"], "labels": ["a=1", "b=2"],
                "kubernetesVersion": "v1.33", "token": "t",
            })
        );
    }

    #[test]
    fn the_inventory_decides_what_a_machine_gets() {
        let code = |machine: &KnownMachine| decide(machine).unwrap_err().code;
        assert_eq!(decide(&machine(json!({}))), Ok(Decision::Nothing));
        assert_eq!(decide(&machine(json!({"config": {"role": "agent"}}))), Ok(Decision::Settings));
        let key = ("c-1".to_owned(), "c-1-a-token".to_owned());
        assert_eq!(decide(&assigned(json!({"clusterName": "c"}), 2)), Ok(Decision::Token(key)));
        assert_eq!(code(&machine(json!({"clusterName": "c"}))), RefusalCode::ClusterTokenPending);
        let moved = assigned(json!({"clusterName": "other"}), 1);
        assert_eq!(code(&moved), RefusalCode::ClusterTokenPending, "the old cluster's token is not handed out");
        let waiting = assigned(json!({"clusterName": "c", "approved": false}), 2);
        assert_eq!(code(&waiting), RefusalCode::ApprovalPending);
        let deleted = KnownMachine { deleting: true, ..assigned(json!({"clusterName": "c"}), 2) };
        assert_eq!(code(&deleted), RefusalCode::UnknownMachine);
    }

    #[test]
    fn a_configuration_larger_than_a_message_is_refused_with_the_limit() {
        let config: MachineConfig =
            serde_json::from_value(json!({"x": "x".repeat(JoinConfiguration::MAX_BYTES)})).unwrap();
        let refusal = render(config, None).unwrap_err();
        assert!(refusal.code == RefusalCode::MessageTooBig && refusal.message.contains("spec.config"), "{refusal}");
    }

    #[tokio::test]
    async fn a_token_is_handed_out_only_if_it_exists_and_is_the_machines() {
        let api = FakeApi::default();
        api.install_rancher();
        let context = fixtures::context(&api);
        let machine = assigned(json!({"clusterName": "c", "config": {"role": "agent"}}), 2);
        let key = ("c-1".to_owned(), "c-1-a-token".to_owned());
        context.rancher.make_token(&key, &machine).await.unwrap();
        let waiting = join(&context.rancher, &context.registrations, &context.endpoint(), &machine).await;
        assert_eq!((waiting.configuration, waiting.pending.unwrap().code), (None, RefusalCode::ClusterTokenPending));
        api.issue_tokens("s3cret");
        let told = join(&context.rancher, &context.registrations, &context.endpoint(), &machine).await;
        let configured = told.configuration.unwrap().0;
        assert_eq!((&configured["token"], configured.get("server")), (&json!("s3cret"), None));
        assert_eq!((told.cluster.as_deref(), told.pending), (Some("c"), None));
        let other = KnownMachine { name: "b".into(), ..machine.clone() };
        assert_eq!(
            configuration(&context.rancher, &context.registrations, &context.endpoint(), &other)
                .await
                .unwrap_err()
                .code,
            RefusalCode::ClusterTokenPending
        );
        api.set_away(true);
        assert_eq!(
            configuration(&context.rancher, &context.registrations, &context.endpoint(), &machine)
                .await
                .unwrap_err()
                .code,
            RefusalCode::Unavailable
        );
    }

    #[tokio::test]
    async fn a_node_has_its_machines_name_unless_another_is_configured() {
        use kube::runtime::watcher::Event;
        let told = async |spec: Value, cloud_config: Option<Value>, came_through: Option<&str>| {
            let context = fixtures::context(&FakeApi::default());
            let context = Context { registrations: RegistrationIndex::default(), ..context };
            if let Some(config) = cloud_config {
                let door = fixtures::registration(json!({"cloudConfig": config}), &"t".repeat(54));
                context.registrations.apply(&Event::Apply(door));
            }
            let machine = KnownMachine { registration: came_through.map(str::to_owned), ..machine(spec) };
            let configuration = configuration(&context.rancher, &context.registrations, &context.endpoint(), &machine)
                .await
                .unwrap()
                .unwrap();
            configuration.0.get("nodeName").and_then(Value::as_str).map(str::to_owned)
        };
        let agent = || json!({"config": {"role": "agent"}});
        assert_eq!(told(agent(), None, None).await.as_deref(), Some("a"), "made by hand");
        assert_eq!(told(agent(), Some(json!({})), Some("door")).await.as_deref(), Some("a"));
        // The name is in its cloud-config already, as `rancherd.nodeName`.
        assert_eq!(told(agent(), Some(json!({"hostname": "shop-${machineName}"})), Some("door")).await, None);
        assert_eq!(told(agent(), None, Some("gone")).await, None);
        let own = json!({"config": {"role": "agent", "nodeName": "n"}});
        assert_eq!(told(own, Some(json!({})), Some("door")).await.as_deref(), Some("n"));
    }

    #[tokio::test]
    async fn a_machine_joins_at_ranchers_url_if_it_differs() {
        for (url, config, server) in [
            ("https://rancher.example.org/", json!({"role": "agent"}), Some("https://rancher.example.org")),
            ("https://rancher.example.org", json!({"role": "agent", "server": "https://own"}), Some("https://own")),
            // The operator's own URL in tests: the operator is beside Rancher.
            ("https://ros.example.org", json!({"role": "agent"}), None),
            ("", json!({"role": "agent"}), None),
        ] {
            let api = FakeApi::default();
            api.install_rancher();
            api.put("/apis/management.cattle.io/v3/settings/server-url", json!({"value": url, "metadata": {}}));
            let context = fixtures::context(&api);
            let machine = assigned(json!({"clusterName": "c", "config": config}), 2);
            let key = ("c-1".to_owned(), "c-1-a-token".to_owned());
            context.rancher.make_token(&key, &machine).await.unwrap();
            api.issue_tokens("s3cret");
            let configuration = configuration(&context.rancher, &context.registrations, &context.endpoint(), &machine)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(configuration.0.get("server").and_then(Value::as_str), server, "{url}");
        }
    }
}
