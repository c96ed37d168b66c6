//! Kubernetes events. They are best effort: writing one never delays the caller, and many machines at once do not
//! become many events at once. What somebody must know is in conditions.

use crate::kube::client::FIELD_MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::time::Duration;
use tokio::sync::mpsc;

/// Length of the queue of events. When it is full, new events are dropped.
const WAITING: usize = 64;
/// Least time between two events, so at most four per second. An event costs the API server as much as the write of an
/// inventory.
const PAUSE: Duration = Duration::from_millis(250);
/// The API server's limit on a note, in bytes.
const LONGEST_NOTE: usize = 1024;

#[derive(Clone)]
pub struct Events {
    waiting: mpsc::Sender<(Event, ObjectReference)>,
}

impl Events {
    /// The second value writes the events until the first value and all its clones are dropped.
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

    /// Queues an event about an object. `reason` is CamelCase.
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
            tracing::debug!(reason, "an event was dropped: too many are waiting");
        }
    }
}
