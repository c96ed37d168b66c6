//! Watches that recover from every error of the API server.

use futures::{Stream, StreamExt, stream};
use kube::core::Status;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Error, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// All events of a kind, without end. `kind`: its name in the log.
///
/// kube's own watcher lists again when an event says that its resource version has expired. When the answer to its
/// request says so, it repeats the same request without end (kube#1042). An API server behind an aggregator or a proxy
/// may answer that way. Then a new watcher is started, which lists first.
///
/// A restored etcd is noticed if its revision was raised (`etcdutl snapshot restore --bump-revision --mark-compacted`,
/// as Kubernetes' documentation says). Otherwise an API server accepts a watch from a future version and leaves out the
/// events before it (kubernetes#107457).
pub fn keep_watching<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: &'static str,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).boxed();
    let events = stream::unfold((begin(), begin), move |(mut events, begin)| async move {
        let event = events.next().await?;
        if let Err(error) = &event {
            tracing::warn!(kind, %error, "watching");
            if cannot_be_resumed(error) {
                events = begin();
            }
        }
        Some((event, (events, begin)))
    });
    events.default_backoff()
}

fn cannot_be_resumed(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(Error::Api(status)) => is_of_another_time(status),
        _ => false,
    }
}

/// 410: the requested version is too old. 504: the API server has not reached the requested version.
fn is_of_another_time(status: &Status) -> bool {
    matches!(status.code, 410 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A client whose API server returns another object in each listing and refuses every watch with this code.
    fn refusing(code: u16) -> kube::Client {
        let listings = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |request: Request<Body>| {
            let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let (code, body) = if watch {
                (code, json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": ""}))
            } else {
                (200, listing(listings.fetch_add(1, Ordering::Relaxed)))
            };
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap();
            async move { Ok::<_, Infallible>(response) }
        });
        kube::Client::new(service, "default")
    }
    fn listing(number: usize) -> Value {
        let object = json!({"metadata": {"name": format!("listing-{number}"), "resourceVersion": "1"}});
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "1"}, "items": [object]})
    }

    /// The names of the first objects that the watch delivers within ten minutes.
    async fn first_names(code: u16, names: usize) -> Vec<String> {
        let api = Api::<ConfigMap>::all(refusing(code));
        let events = keep_watching(api, watcher::Config::default(), "ConfigMap");
        let objects = events.filter_map(async |event| match event {
            Ok(Event::InitApply(object)) => object.metadata.name,
            _ => None,
        });
        let objects = objects.take(names).take_until(tokio::time::sleep(std::time::Duration::from_secs(600)));
        objects.collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_cannot_resume_starts_with_a_listing() {
        for code in [410, 504] {
            assert_eq!(first_names(code, 3).await, ["listing-0", "listing-1", "listing-2"], "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_temporary_refusal_causes_no_listing() {
        for code in [429, 500, 503] {
            assert_eq!(first_names(code, 2).await, ["listing-0"], "{code}");
        }
    }
}
