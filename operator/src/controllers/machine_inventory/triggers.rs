//! Which inventories must be reconciled: in a healthy fleet, hardly any.

use super::{Finding, Name, STATUS_GRACE, build, cluster, find, secret, update_requests};
use crate::context::Context;
use crate::inventory::erase_request;
use crate::inventory::index::KnownMachine;
use crate::inventory::seen::SeenInventory;
use futures::{Stream, StreamExt, stream};
use kube::api::ObjectMeta;
use kube::runtime::watcher;
use protocol::TpmHash;
use std::sync::Arc;
use std::time::Duration;

/// Enters an event of the watch into the index and returns events for the controller: `Apply` for objects that need a
/// reconciliation, `Delete` for settled ones, which are nearly all.
pub(super) fn triggers(
    context: &Context,
    event: watcher::Result<watcher::Event<SeenInventory>>,
) -> Vec<watcher::Result<watcher::Event<Name>>> {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    let event = match event {
        Ok(event) => event,
        Err(error) => return vec![Err(error)],
    };
    let index = &context.inventory.index;
    // Whether an inventory counts depends on the other inventories of the machine.
    let all = |hash: Option<&TpmHash>| hash.map(|hash| index.of_one_machine(hash)).unwrap_or_default();
    let others = |hash| Some(all(hash)).filter(|machines| machines.len() > 1).unwrap_or_default();
    let again = |machines: Vec<Arc<KnownMachine>>| machines.into_iter().map(|machine| Apply(name_of(&machine)));
    let events: Vec<_> = match event {
        Init => {
            index.begin_listing();
            vec![Init]
        }
        InitApply(object) => {
            let machine = index.enter_listed(object.0);
            if is_settled(&machine, context) { vec![] } else { vec![InitApply(name_of(&machine))] }
        }
        InitDone => {
            index.finish_listing();
            let duplicates = index.duplicates().into_iter().map(|machine| InitApply(name_of(&machine)));
            duplicates.chain([InitDone]).collect()
        }
        Apply(object) => {
            let machine = index.enter(object.0);
            let own = if is_settled(&machine, context) { Delete } else { Apply };
            [own(name_of(&machine))].into_iter().chain(again(others(machine.hash.as_ref()))).collect()
        }
        Delete(object) => {
            let machine = KnownMachine::of(object.0);
            index.forget(&machine);
            let left = all(machine.hash.as_ref());
            [Delete(name_of(&machine))].into_iter().chain(again(left)).collect()
        }
    };
    events.into_iter().map(Ok).collect()
}

/// Inventories that the server has created but will not give a status any more. Each is repeated until it has one.
/// Those that get a status a moment after their creation cost the controller nothing.
pub(super) fn left_without_status(context: Arc<Context>) -> impl Stream<Item = watcher::Result<watcher::Event<Name>>> {
    let machines = stream::unfold(context, |context| async {
        tokio::time::sleep(Duration::from_secs(STATUS_GRACE.unsigned_abs())).await;
        let left = context.inventory.index.without_phase();
        let left = left.into_iter().filter(|machine| find(machine, &context) == Finding::Unrecorded);
        let triggers: Vec<_> = left.map(|machine| Ok(watcher::Event::Apply(name_of(&machine)))).collect();
        Some((stream::iter(triggers), context))
    });
    machines.flatten()
}

fn name_of(machine: &KnownMachine) -> Name {
    Name {
        types: None,
        metadata: ObjectMeta {
            namespace: Some(machine.namespace.clone()),
            name: Some(machine.name.clone()),
            ..ObjectMeta::default()
        },
        _phantom: std::marker::PhantomData,
    }
}

/// Whether a reconciliation would have nothing to do, now or later, apart from [`left_without_status`].
fn is_settled(machine: &KnownMachine, context: &Context) -> bool {
    if machine.deleting || !machine.finalizers.is_empty() || machine.cluster().is_some() || machine.secret().is_some() {
        return false;
    }
    let (finding, now) = (find(machine, context), context.now());
    if finding != Finding::Nothing {
        return finding == Finding::TooEarly;
    }
    let mut status = build(machine, &finding, &now);
    if erase_request::concerns(machine) {
        update_requests(machine, &finding, &mut status, &now);
    }
    cluster::set_condition(machine, &cluster::State::Unassigned, &mut status, &now);
    secret::set_condition(machine, &secret::State::NotNamed, &mut status, &now);
    status == machine.status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, FakeApi};
    use crate::inventory::index::InventoryIndex;
    use api::{MachineInventory, Phase};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::SignedDuration;
    use kube::ResourceExt;
    use serde_json::json;
    use watcher::Event;

    fn machine(name: &str, hash: char, phase: Option<Phase>) -> MachineInventory {
        let mut object = fixtures::inventory(name, json!({"tpmHash": hash.to_string().repeat(64)}));
        object.metadata.generation = Some(1);
        let mut status = api::MachineInventoryStatus { phase, ..Default::default() };
        status.observed_generation = phase.map(|_| 1);
        object.status = Some(status);
        object
    }

    /// The events for the controller that follow from an event of the watch: kind and name of the object.
    fn handed_on(context: &Context, event: Event<MachineInventory>) -> Vec<String> {
        let event = match event {
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
            Event::InitApply(object) => Event::InitApply(SeenInventory(object)),
            Event::Apply(object) => Event::Apply(SeenInventory(object)),
            Event::Delete(object) => Event::Delete(SeenInventory(object)),
        };
        let events = triggers(context, Ok(event)).into_iter().map(Result::unwrap);
        let texts = events.map(|event| match event {
            Event::Init => "init".to_owned(),
            Event::InitDone => "done".to_owned(),
            Event::InitApply(name) | Event::Apply(name) => format!("apply {}", name.name_any()),
            Event::Delete(name) => format!("delete {}", name.name_any()),
        });
        texts.collect()
    }

    #[tokio::test]
    async fn a_ready_machine_is_reconciled_only_after_a_relevant_change() {
        let context = fixtures::context(&FakeApi::default());
        let well = machine("a", 'a', Some(Phase::Ready));
        assert_eq!(handed_on(&context, Event::Apply(well.clone())), ["delete a"]);
        for change in [
            json!({"spec": {"clusterName": "c"}}),
            json!({"spec": {"machineTokenSecretName": "s"}}),
            json!({"spec": {"tpmHash": "no hash"}}),
            json!({"metadata": {"generation": 2}}),
            json!({"metadata": {"finalizers": ["rancheros.cattle.io/token"]}}),
            json!({"metadata": {"deletionTimestamp": "2026-11-22T00:00:00Z"}}),
            json!({"status": {"phase": "Expected"}}),
            json!({"spec": {"reinstall": "again"}}),
            json!({"status": {"clusterRegistrationTokenName": "left over"}}),
        ] {
            let mut object = serde_json::to_value(&well).unwrap();
            object["metadata"]["resourceVersion"] = json!("2");
            for (part, fields) in change.as_object().unwrap() {
                for (field, value) in fields.as_object().unwrap() {
                    object[part][field] = value.clone();
                }
            }
            let context = fixtures::context(&FakeApi::default());
            let changed = serde_json::from_value(object).unwrap();
            assert_eq!(handed_on(&context, Event::Apply(changed)), ["apply a"], "{change}");
        }
    }

    #[tokio::test]
    async fn all_inventories_of_a_duplicate_are_reconciled() {
        let context = fixtures::context(&FakeApi::default());
        let (a, b) = (machine("a", 'a', Some(Phase::Ready)), machine("b", 'a', Some(Phase::Ready)));
        assert_eq!(handed_on(&context, Event::Apply(b.clone())), ["delete b"]);
        assert_eq!(handed_on(&context, Event::Apply(a.clone())), ["apply a", "apply a", "apply b"]);
        assert_eq!(handed_on(&context, Event::Delete(a.clone())), ["delete a", "apply b"]);

        let mut context = fixtures::context(&FakeApi::default());
        context.inventory.index = InventoryIndex::default();
        assert_eq!(handed_on(&context, Event::Init), ["init"]);
        assert_eq!(handed_on(&context, Event::InitApply(b)), [] as [&str; 0]);
        assert_eq!(handed_on(&context, Event::InitApply(a)), ["apply a"]);
        assert_eq!(handed_on(&context, Event::InitDone), ["apply a", "apply b", "done"]);
    }

    #[tokio::test]
    async fn a_listing_replaces_newer_versions() {
        let context = fixtures::context(&FakeApi::default());
        let of_version = |version: &str, phase| {
            let mut object = machine("a", 'a', Some(phase));
            object.metadata.resource_version = Some(version.to_owned());
            object
        };
        let (restored, lost) = (of_version("5", Phase::Ready), of_version("9", Phase::Booted));
        handed_on(&context, Event::Apply(lost));
        handed_on(&context, Event::Init);
        handed_on(&context, Event::InitApply(restored));
        handed_on(&context, Event::InitDone);
        assert_eq!(context.inventory.index.get("n", "a").unwrap().status.phase, Some(Phase::Ready));
    }

    #[tokio::test(start_paused = true)]
    async fn an_inventory_left_without_a_status_is_reconciled() {
        let context = Arc::new(fixtures::context(&FakeApi::default()));
        let made = |name: &str, hash, seconds_ago: i64| {
            let mut object = machine(name, hash, None);
            let door = (api::REGISTRATION_ANNOTATION.to_owned(), "door".to_owned());
            object.metadata.annotations = Some([door].into());
            let time = context.now().0.checked_sub(SignedDuration::from_secs(seconds_ago)).unwrap();
            object.metadata.creation_timestamp = Some(Time(time));
            object
        };
        assert_eq!(handed_on(&context, Event::Apply(made("a", 'a', STATUS_GRACE - 1))), ["delete a"]);
        assert_eq!(handed_on(&context, Event::Apply(made("b", 'b', STATUS_GRACE))), ["apply b"]);
        assert_eq!(handed_on(&context, Event::Apply(machine("c", 'c', Some(Phase::Ready)))), ["delete c"]);
        let mut left = std::pin::pin!(left_without_status(context.clone()));
        let Some(Ok(Event::Apply(name))) = left.next().await else { panic!("an object to reconcile") };
        assert_eq!(name.name_any(), "b");
    }
}
