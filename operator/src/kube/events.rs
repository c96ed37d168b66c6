//! Kubernetes events, as a courtesy: they never hold up what they tell of, and a herd of machines does not turn into a
//! herd of events. What must be known stands in conditions.

use crate::kube::client::FIELD_MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that wait to be written; beyond it the newest are dropped.
const WAITING: usize = 64;
/// The least time between two events: four a second at most, for each costs the API server as much as a machine's.
const PAUSE: Duration = Duration::from_millis(250);
/// The API server's limit on a note, in bytes.
const LONGEST_NOTE: usize = 1024;

#[derive(Clone)]
pub struct Events {
    waiting: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// The second value writes them, until the first and its clones are dropped.
    pub fn new(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (waiting, mut queue) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: None };
        let recorder = Recorder::new(client, reporter);
        let write = async move {
            while let Some((event, about)) = queue.recv().await {
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::debug!(%error, reason = event.reason, "an event was not written");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        (Self { waiting }, write)
    }

    /// Tells that something happened to an object. `reason` is CamelCase.
    pub fn publish(&self, about: ObjectReference, warning: bool, reason: &str, note: &str) {
        let mut note = note.to_owned();
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note),
            action: reason.to_owned(),
            secondary: None,
        };
        if self.waiting.try_send((event, about)).is_err() {
            tracing::debug!(reason, "an event was dropped: too many wait");
        }
    }
}
