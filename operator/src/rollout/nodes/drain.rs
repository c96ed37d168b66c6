//! Draining a node as `kubectl drain` does, decided from its pods: which are evicted, which are waited for, and whether it
//! cannot be done. The texts are those of `kubectl drain` (k8s.io/kubectl/pkg/drain, v0.36), with the field to set.

use super::Drain;
use super::node::{Controller, Pod};
use kube::core::SelectorExt;
use std::collections::BTreeMap;

/// Seconds after the cordon from which on a new pod can only be one that is scheduled in spite of it. `kubectl drain` lists the
/// pods once, and does not see it either. Longer than the clocks of the operator and of the API server may differ.
const LATE: i64 = 60;

const DAEMON_SET: &str = "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)";
const LOCAL_STORAGE: &str = "Pods with local storage (use --delete-emptydir-data to override)";
const UNMANAGED: &str = "Pods that declare no controller (use --force to override)";

/// What a drain does next.
#[derive(Clone, Debug, PartialEq)]
pub enum DrainStep {
    /// No pod is left that must go.
    Drained,
    /// These pods must go; those that are not being deleted yet are evicted.
    Remove {
        evict: Vec<Pod>,
        left: usize,
        text: String,
    },
    Failed(String),
}

/// `cordoned`: when the node was cordoned, `since`: when its first pods were evicted, `said`: what was said about the drain last.
/// Times in seconds since 1970.
pub fn drain(pods: &[Pod], drain: &Drain, cordoned: i64, since: i64, said: Option<&str>, now: i64) -> DrainStep {
    let options = &drain.options;
    // By kubectl's words and the field to set.
    let mut refusals: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    let mut remove = Vec::new();
    for pod in pods.iter().filter(|pod| !pod.own && drain.selector.matches(&pod.labels)) {
        let daemon_set = match &pod.controller {
            Some(Controller::DaemonSet { name, exists }) if !pod.finished => Some((name, *exists)),
            _ => None,
        };
        let refused = match daemon_set {
            _ if pod.created > cordoned + LATE => continue,
            _ if is_given_up(pod, options.skip_wait_for_delete_timeout, now) => continue,
            Some((name, false)) if !options.force => Some((format!("daemonsets.apps {name:?} not found"), "force")),
            Some((_, true)) if options.ignore_daemon_sets => continue,
            Some((_, true)) => Some((DAEMON_SET.to_owned(), "ignoreDaemonSets")),
            _ if pod.mirror => continue,
            _ if pod.empty_dir && !pod.finished && !options.delete_local_data => {
                Some((LOCAL_STORAGE.to_owned(), "deleteLocalData"))
            }
            _ if pod.controller.is_none() && !pod.finished && !options.force => Some((UNMANAGED.to_owned(), "force")),
            _ => None,
        };
        match refused {
            Some(why) => refusals.entry(why).or_default().push(called(pod)),
            None => remove.push(pod),
        }
    }
    if !refusals.is_empty() {
        let texts = refusals.iter().map(|((text, field), pods)| {
            format!("cannot delete {text}: {}; spec.drain.{field}: true allows it", few(pods))
        });
        return DrainStep::Failed(texts.collect::<Vec<_>>().join("; "));
    }
    let Some(first) = remove.first() else { return DrainStep::Drained };
    let limit = options.timeout.filter(|limit| *limit > 0).and_then(|limit| i64::try_from(limit).ok());
    if let Some(limit) = limit.filter(|limit| now - since >= *limit) {
        let said = said.map(|said| format!("; last: {said}")).unwrap_or_default();
        let others = if remove.len() > 1 { format!(" (and {} more)", remove.len() - 1) } else { String::new() };
        let what = match first.deleted {
            Some(_) => {
                format!("error when waiting for pod {:?} in namespace {:?} to terminate", first.name, first.namespace)
            }
            None => format!("error when evicting {}", quoted(first)),
        };
        let text = format!("{what}: global timeout reached: {}{others}{said}", go_duration(limit));
        return DrainStep::Failed(text);
    }
    let names: Vec<String> = remove.iter().map(|pod| called(pod)).collect();
    let evict = remove.iter().filter(|pod| pod.deleted.is_none()).map(|pod| (*pod).clone()).collect();
    DrainStep::Remove { evict, left: remove.len(), text: format!("draining: {}", few(&names)) }
}

/// Whether the pod was deleted so long ago that it is not waited for.
fn is_given_up(pod: &Pod, timeout: Option<i32>, now: i64) -> bool {
    let timeout = timeout.filter(|timeout| *timeout > 0);
    pod.deleted.zip(timeout).is_some_and(|(deleted, timeout)| now - deleted > i64::from(timeout))
}

/// As kubectl names it in a list.
fn called(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// As kubectl names it in an error.
pub fn quoted(pod: &Pod) -> String {
    format!("pods/{:?} -n {:?}", pod.name, pod.namespace)
}

/// The first of them, and how many more there are.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// Seconds as Go prints a duration: `5m0s`.
fn go_duration(seconds: i64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::drain_options::DrainOptions;
    use kube::core::Selector;
    use serde_json::{Value, json};

    const NOW: i64 = 1_800_000_000;

    fn with(options: Value) -> Drain {
        let options = DrainOptions::of(&serde_json::from_value(options).unwrap()).unwrap();
        let selector = Selector::try_from(options.pod_selector.clone().unwrap_or_default()).unwrap();
        Drain { options, selector }
    }
    fn pod(name: &str) -> Pod {
        Pod { namespace: "shop".into(), name: name.into(), controller: Some(Controller::Other), ..Pod::default() }
    }
    fn step(options: Value, pods: &[Pod]) -> DrainStep {
        drain(pods, &with(options), NOW - 300, NOW - 300, Some("why"), NOW)
    }
    fn evicted(options: Value, pods: &[Pod]) -> Vec<String> {
        match step(options, pods) {
            DrainStep::Remove { evict, .. } => evict.into_iter().map(|pod| pod.name).collect(),
            DrainStep::Drained => Vec::new(),
            DrainStep::Failed(text) => vec![format!("!{text}")],
        }
    }

    #[test]
    fn each_option_does_what_it_does_for_kubectl() {
        let of_daemon_set =
            |exists| Pod { controller: Some(Controller::DaemonSet { name: "ds".into(), exists }), ..pod("d") };
        let (daemon, orphan) = (of_daemon_set(true), of_daemon_set(false));
        let local = Pod { empty_dir: true, ..pod("l") };
        let naked = Pod { controller: None, ..pod("n") };
        let mirror = Pod { mirror: true, controller: Some(Controller::Other), ..pod("m") };
        let own = Pod { own: true, ..naked.clone() };
        let ended = Pod { finished: true, empty_dir: true, controller: None, ..pod("e") };
        let deleted = |ago: i64| Pod { deleted: Some(NOW - ago), ..pod("x") };
        let refused = |text: &str| vec![format!("!cannot delete {text}")];
        for (options, pods, expected) in [
            (json!({}), vec![], vec![]),
            (json!({}), vec![pod("a"), pod("b")], vec!["a".into(), "b".into()]),
            (json!({}), vec![daemon.clone(), mirror, own], vec![]),
            (
                json!({"ignoreDaemonSets": false}),
                vec![daemon],
                refused(
                    "DaemonSet-managed Pods (use --ignore-daemonsets to ignore): shop/d; spec.drain.ignoreDaemonSets: \
                     true allows it",
                ),
            ),
            (
                json!({}),
                vec![local.clone(), pod("a")],
                refused(
                    "Pods with local storage (use --delete-emptydir-data to override): shop/l; \
                     spec.drain.deleteLocalData: true allows it",
                ),
            ),
            (json!({"deleteLocalData": true}), vec![local], vec!["l".into()]),
            (
                json!({}),
                vec![naked.clone()],
                refused(
                    "Pods that declare no controller (use --force to override): shop/n; spec.drain.force: true allows it",
                ),
            ),
            (json!({"force": true}), vec![naked], vec!["n".into()]),
            (
                json!({}),
                vec![orphan.clone()],
                refused("daemonsets.apps \"ds\" not found: shop/d; spec.drain.force: true allows it"),
            ),
            (json!({"force": true}), vec![orphan], vec!["d".into()]),
            (json!({}), vec![ended], vec!["e".into()]),
            (json!({"skipWaitForDeleteTimeout": 5}), vec![deleted(6)], vec![]),
            (json!({"skipWaitForDeleteTimeout": 5}), vec![deleted(4), pod("a")], vec!["a".into()]),
            (json!({"podSelector": {"matchLabels": {"a": "b"}}}), vec![pod("a")], vec![]),
        ] {
            assert_eq!(evicted(options.clone(), &pods), expected, "{options} {pods:?}");
        }
    }

    #[test]
    fn pods_that_are_going_are_waited_for_until_the_timeout() {
        let going = [Pod { deleted: Some(NOW), ..pod("a") }];
        let text = "draining: shop/a".to_owned();
        assert_eq!(step(json!({}), &going), DrainStep::Remove { evict: vec![], left: 1, text: text.clone() });
        assert_eq!(step(json!({"timeout": "5m1s"}), &going), DrainStep::Remove { evict: vec![], left: 1, text });
        for (pods, text) in [
            (
                &going[..],
                "error when waiting for pod \"a\" in namespace \"shop\" to terminate: global timeout reached: 5m0s; last: why",
            ),
            (
                &[pod("a"), pod("b")],
                "error when evicting pods/\"a\" -n \"shop\": global timeout reached: 5m0s (and 1 more); last: why",
            ),
        ] {
            assert_eq!(step(json!({"timeout": "5m"}), pods), DrainStep::Failed(text.to_owned()));
        }
        assert_eq!(step(json!({"timeout": "5m"}), &[]), DrainStep::Drained);
    }

    #[test]
    fn a_pod_that_is_made_again_in_spite_of_the_cordon_is_not_waited_for() {
        let made = |at: i64| [Pod { created: NOW - 300 + at, empty_dir: true, ..pod("a") }];
        let options = || json!({"deleteLocalData": true});
        assert_eq!(step(options(), &made(LATE + 1)), DrainStep::Drained);
        assert_eq!(step(json!({}), &made(LATE + 1)), DrainStep::Drained);
        // It may have been scheduled before the scheduler saw the cordon.
        assert_eq!(evicted(options(), &made(LATE)), ["a"]);
    }

    #[test]
    fn durations_look_like_gos() {
        assert_eq!([45, 60, 3661].map(go_duration), ["45s", "1m0s", "1h1m1s"]);
    }
}
