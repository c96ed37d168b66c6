//! The client of the API server, with a clock beside it.

use crate::metrics::RequestTimes;
use anyhow::Context as _;
use axum::http::{Request, Response};
use kube::Client;
use kube::client::{Body, ClientBuilder};
use tokio::time::Instant;
use tower::{Layer, Service};

/// A client all of whose requests are timed.
pub fn timed(config: kube::Config, times: RequestTimes) -> anyhow::Result<Client> {
    let builder = ClientBuilder::try_from(config).context("making a client of the cluster")?;
    Ok(builder.with_layer(&Timed(times)).build())
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
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = futures::future::BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let times = self.times.clone();
        let begun = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            times.observe(&method, &path, status, begun.elapsed());
            answer
        })
    }
}
