//! Tests of `controllers::machine_inventory::cluster`.

use super::*;
use crate::fixtures::{self, FakeApi};
use crate::kube::status_writer::StatusPatch;
use serde_json::Value;

struct Scene {
    api: FakeApi,
    context: Context,
}

impl Scene {
    fn new() -> Self {
        let api = FakeApi::default();
        let context = fixtures::context(&api);
        Self { api, context }
    }

    /// Applies the inventory as a user does.
    fn apply(&self, spec: Value, generation: i64) {
        let path = "/apis/rancheros.cattle.io/v1/namespaces/n/machineinventories/a";
        let kept = self.api.objects("machineinventories").pop();
        let mut object = serde_json::to_value(fixtures::inventory("a", spec)).unwrap();
        object["metadata"]["generation"] = generation.into();
        if let Some(kept) = kept {
            object["status"] = kept["status"].clone();
            object["metadata"]["finalizers"] = kept["metadata"]["finalizers"].clone();
        }
        self.api.put(path, object.clone());
        if let Some(before) = self.context.inventory.index.get("n", "a") {
            self.context.inventory.index.forget(&before);
        }
        self.context.inventory.index.enter(serde_json::from_value(object).unwrap());
    }

    /// Reconciles once and returns the reason of the condition.
    async fn reconcile(&self) -> String {
        let machine = self.context.inventory.index.get("n", "a").unwrap();
        let state = reconcile_token(&machine, &self.context).await.unwrap();
        let machine = self.context.inventory.index.get("n", "a").unwrap();
        let mut status = machine.status.clone();
        set_condition(&machine, &state, &mut status, &self.context.now());
        let reason = status.conditions.find(condition_type::ASSIGNED).map(|condition| condition.reason.to_string());
        self.keep(status).await;
        reason.unwrap_or_default()
    }

    async fn keep(&self, status: MachineInventoryStatus) {
        let machine = self.context.inventory.index.get("n", "a").unwrap();
        if let Some(patch) = StatusPatch::between(&machine.status, &status, machine.resource_version()) {
            let written = self.context.inventory.store.write_status("n", "a", &patch).await.unwrap();
            self.context.inventory.index.assume_written(&machine, status, &written).expect("nobody else writes");
        }
    }

    fn tokens(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .api
            .objects("clusterregistrationtokens")
            .iter()
            .map(|token| format!("{}/{}", token["metadata"]["namespace"], token["metadata"]["name"]).replace('"', ""))
            .collect();
        names.sort();
        names
    }

    fn is_held(&self) -> bool {
        !self.context.inventory.index.get("n", "a").unwrap().finalizers.is_empty()
    }
}

fn in_cluster(cluster: &str) -> Value {
    json!({"clusterName": cluster})
}

#[tokio::test(start_paused = true)]
async fn the_condition_names_what_is_missing_until_the_token_is_issued() {
    let scene = Scene::new();
    scene.apply(in_cluster("c"), 1);
    assert_eq!(scene.reconcile().await, reason::RANCHER_NOT_INSTALLED);
    scene.api.install_rancher();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(scene.reconcile().await, reason::CLUSTER_NOT_FOUND);
    scene.api.put_cluster("c", None);
    assert_eq!(scene.reconcile().await, reason::CLUSTER_NOT_READY);
    assert!(!scene.is_held(), "nothing is to be deleted yet");
    scene.api.put_cluster("c", Some("c-1"));
    assert_eq!(scene.reconcile().await, reason::TOKEN_NOT_ISSUED);
    assert_eq!((scene.tokens(), scene.is_held()), (vec!["c-1/c-1-a-token".to_owned()], true));
    scene.api.issue_tokens("t");
    assert_eq!(scene.reconcile().await, reason::TOKEN_ISSUED);
    let machine = scene.context.inventory.index.get("n", "a").unwrap();
    assert_eq!(machine.status.cluster_registration_token_namespace.as_deref(), Some("c-1"));

    scene.api.take_requests();
    assert_eq!(scene.reconcile().await, reason::TOKEN_ISSUED);
    assert_eq!(scene.api.take_requests(), [] as [&str; 0], "what is in order is left alone");
    tokio::time::advance(IN_ORDER).await;
    assert_eq!(scene.reconcile().await, reason::TOKEN_ISSUED);
    assert_eq!(scene.api.take_requests(), ["GET clusters", "GET clusterregistrationtokens"]);
}

#[tokio::test(start_paused = true)]
async fn a_move_to_another_cluster_creates_a_token_and_deletes_the_old_one() {
    let scene = assigned().await;
    scene.api.put_cluster("d", Some("c-2"));
    scene.apply(in_cluster("d"), 2);
    assert_eq!(scene.reconcile().await, reason::TOKEN_NOT_ISSUED);
    assert_eq!(scene.tokens(), ["c-2/c-2-a-token"]);
    scene.apply(json!({}), 3);
    assert_eq!(scene.reconcile().await, "");
    assert_eq!((scene.tokens().len(), scene.is_held()), (0, false));
    let machine = scene.context.inventory.index.get("n", "a").unwrap();
    assert_eq!(noted(&machine), None);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_clusters_token_is_deleted_and_a_deleted_token_is_created_again() {
    let scene = assigned().await;
    scene.api.delete("/apis/management.cattle.io/v3/namespaces/c-1/clusterregistrationtokens/c-1-a-token");
    tokio::time::advance(IN_ORDER).await;
    assert_eq!(scene.reconcile().await, reason::TOKEN_NOT_ISSUED);
    assert_eq!(scene.tokens(), ["c-1/c-1-a-token"]);
    scene.api.delete("/apis/provisioning.cattle.io/v1/namespaces/n/clusters/c");
    assert_eq!(scene.reconcile().await, reason::CLUSTER_NOT_FOUND);
    assert_eq!((scene.tokens().len(), scene.is_held()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_inventorys_token_is_deleted_even_if_it_was_not_recorded() {
    for forgotten in [false, true] {
        let scene = assigned().await;
        let mut machine = (*scene.context.inventory.index.get("n", "a").unwrap()).clone();
        machine.deleting = true;
        if forgotten {
            machine.status.cluster_registration_token_name = None;
        }
        delete_tokens(&machine, &scene.context).await.unwrap();
        assert_eq!(scene.tokens().len(), 0);
        let object = scene.api.objects("machineinventories").pop().unwrap();
        assert_eq!(object["metadata"]["finalizers"], json!([]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_of_another_machine_is_neither_used_nor_deleted() {
    let scene = Scene::new();
    scene.api.install_rancher();
    scene.api.put_cluster("c", Some("c-1"));
    let other = KnownMachine { namespace: "m".into(), name: "a".into(), ..KnownMachine::default() };
    let key = ("c-1".to_owned(), "c-1-a-token".to_owned());
    scene.context.rancher.make_token(&key, &other).await.unwrap();
    scene.apply(in_cluster("c"), 1);
    assert_eq!(scene.reconcile().await, reason::TOKEN_NAME_TAKEN);
    scene.apply(json!({}), 2);
    scene.reconcile().await;
    assert_eq!(scene.tokens().len(), 1);
}

#[test]
fn short_names_are_those_of_the_first_release() {
    let named = |name: &str| {
        let machine = KnownMachine { name: name.into(), ..KnownMachine::default() };
        token_key(&machine, "c-m-abcdefgh".into()).1
    };
    assert_eq!(named("edge"), "c-m-abcdefgh-edge-token");
    let (one, two) = (named(&"a".repeat(63)), named(&format!("{}b", "a".repeat(62))));
    assert!(one.len() <= LONGEST_NAME && one != two && one[..46] == two[..46], "{one} {two}");
}

#[test]
fn checks_become_rarer_while_something_is_missing() {
    let mut status = MachineInventoryStatus::default();
    let at = |second| Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
    status.conditions.put(condition_type::ASSIGNED, false, reason::CLUSTER_NOT_FOUND, "", None, &at(0));
    let triggers =
        [0, 40, 9000].map(|second| requeue_after(&State::NoCluster, &status, &at(second)).unwrap().as_secs());
    assert_eq!(triggers, [2, 10, 300]);
    assert_eq!(requeue_after(&State::Unassigned, &status, &at(0)), None);
}

/// A scene with a machine whose token is issued.
async fn assigned() -> Scene {
    let scene = Scene::new();
    scene.api.install_rancher();
    scene.api.put_cluster("c", Some("c-1"));
    scene.apply(in_cluster("c"), 1);
    scene.reconcile().await;
    scene.api.issue_tokens("t");
    assert_eq!(scene.reconcile().await, reason::TOKEN_ISSUED);
    scene
}
