//! The client of the API server. Each request is timed and has a deadline.

use crate::kube::request_times::RequestTimes;
use axum::http::{Request, Response};
use kube::Client;
use kube::api::{PatchParams, PostParams};
use kube::client::{Body, ClientBuilder};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower::{BoxError, Layer, Service};

/// The operator's name for the API server, as field manager and as reporter of events.
pub const FIELD_MANAGER: &str = "ros-operator";

/// Parameters of a create or a replace.
pub fn writing() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Parameters of a patch.
pub fn patching() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Longest time until the headers of an answer, retries included. An API server itself works no longer on a request. A
/// watch is answered when it begins.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest time between two reads of an answer. The API server ends a silent watch after 290 s.
const SILENCE: Duration = Duration::from_secs(330);

/// A client that times all requests. A request without an answer fails at its deadline: an API server, or a proxy in
/// front of it, may accept a request and never answer it.
pub fn timed(mut config: kube::Config, times: RequestTimes) -> kube::Result<Client> {
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&Timed(times)).build())
}

/// The same for requests whose refusal is an answer. kube's client asks again by itself, for minutes, after the status 429,
/// 503 or 504.
pub fn timed_without_retries(mut config: kube::Config, times: RequestTimes) -> kube::Result<Client> {
    config.default_retry = false;
    timed(config, times)
}

struct Timed(RequestTimes);

impl<S> Layer<S> for Timed {
    type Service = TimedService<S>;

    fn layer(&self, inner: S) -> TimedService<S> {
        TimedService { inner, times: self.0.clone() }
    }
}

struct TimedService<S> {
    inner: S,
    times: RequestTimes,
}

impl<S, B> Service<Request<Body>> for TimedService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let times = self.times.clone();
        let begun = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match timeout(ANSWER, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs()).into()),
            };
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            times.observe(&method, &path, status, begun.elapsed());
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tower::{ServiceExt, service_fn};

    #[tokio::test(start_paused = true)]
    async fn a_request_without_an_answer_fails_at_its_deadline() {
        let silent = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, BoxError>>());
        let request = Request::get("/api/v1/namespaces/n/secrets/s").body(Body::empty()).unwrap();
        let begun = Instant::now();
        let error = Timed(RequestTimes::default()).layer(silent).oneshot(request).await.unwrap_err();
        assert_eq!((error.to_string(), begun.elapsed()), ("no answer within 60 s".to_owned(), ANSWER));
    }
}
