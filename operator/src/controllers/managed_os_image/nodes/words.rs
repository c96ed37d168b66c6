//! What the pods of upgrade Jobs say.

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use protocol::bounded::cut;
use std::collections::HashMap;

/// The label that the Job controller puts on pods.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// What each container waits for at its beginning.
const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// The most that is told of what a container waits for, in bytes.
const LONGEST_WAITS: usize = 256;

/// See the fields of the same names of [`crate::rollout::nodes::node::Job`].
#[derive(Debug, Default, PartialEq)]
pub(super) struct Words {
    pub(super) said: Option<(i32, String)>,
    pub(super) waits: Option<String>,
}

/// By the Jobs' names.
pub(super) fn of_jobs(pods: Vec<Pod>) -> HashMap<String, Words> {
    let mut words: HashMap<String, (Option<Timestamp>, Words)> = HashMap::new();
    for pod in pods {
        let Some(job) = pod.labels().get(JOB_NAME).cloned() else { continue };
        let (last, words) = words.entry(job).or_default();
        let status = pod.status.unwrap_or_default();
        let containers = [status.init_container_statuses, status.container_statuses];
        for state in containers.into_iter().flatten().flatten().filter_map(|container| container.state) {
            words.waits = waits(&state).or(words.waits.take());
            let Some(end) = state.terminated else { continue };
            let when = end.finished_at.map(|time| time.0);
            if words.said.is_none() || *last <= when {
                *last = when;
                words.said = Some((end.exit_code, end.message.or(end.reason).unwrap_or_default()));
            }
        }
    }
    words.into_iter().map(|(job, (_, words))| (job, words)).collect()
}

fn waits(state: &ContainerState) -> Option<String> {
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !USUAL.contains(reason))?;
    let message = waiting.message.as_deref().and_then(|message| message.lines().next()).unwrap_or_default();
    Some(cut(format!("{reason}: {message}").trim_end_matches(": "), LONGEST_WAITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(job: &str, containers: Value) -> Pod {
        let with = |mut container: Value| {
            for (field, value) in [("image", json!("")), ("imageID", json!("")), ("ready", json!(false))] {
                container[field] = value;
            }
            container["restartCount"] = json!(0);
            container
        };
        let containers: Vec<Value> = containers.as_array().unwrap().iter().cloned().map(with).collect();
        let labels = json!({JOB_NAME: job});
        serde_json::from_value(json!({"metadata": {"labels": labels}, "status": {"containerStatuses": containers}}))
            .unwrap()
    }

    #[test]
    fn the_last_container_that_ended_and_one_that_waits_are_heard() {
        let ended = |second: u8, code: i32, message: &str| {
            let end =
                json!({"exitCode": code, "message": message, "finishedAt": format!("2026-11-30T00:00:0{second}Z")});
            json!([{"name": "upgrade", "state": {"terminated": end}}])
        };
        let waiting = |reason: &str, message: &str| json!([{"name": "upgrade", "state": {"waiting": {"reason": reason, "message": message}}}]);
        let words = of_jobs(vec![
            pod("a", ended(2, 1, "FellBack: it did not come up")),
            pod("a", ended(1, 255, "Unknown")),
            pod("a", waiting("ContainerCreating", "")),
            pod("b", waiting("ErrImagePull", "r/os:2: not found\nsecond line")),
        ]);
        let said = Some((1, "FellBack: it did not come up".to_owned()));
        assert_eq!(words["a"], Words { said, waits: None });
        assert_eq!(words["b"], Words { said: None, waits: Some("ErrImagePull: r/os:2: not found".into()) });
    }
}
