//! The etcd behind a test's API server, over its JSON gateway, for actions that the API server does not offer or does
//! too slowly.
//!
//! Source: etcd's `api/etcdserverpb/rpc.proto` v3.6; in JSON, `bytes` are base64.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt, future};
use kube::Resource;
use serde_json::{Value, json};

/// Values that are written at the same time.
const AT_ONCE: usize = 16;

/// The API server's key of a custom object. `object`: `namespace/name`.
pub fn key<K: Resource<DynamicType = ()>>(object: &str) -> String {
    format!("/registry/{}/{}/{object}", K::group(&()), K::plural(&()))
}

pub struct Etcd {
    client: reqwest::Client,
    url: String,
}

impl Etcd {
    /// `url` is the client URL.
    pub fn new(url: &str) -> Self {
        Self { client: reqwest::Client::new(), url: url.to_owned() }
    }

    /// The value of a key.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let answer = self.ask("range", &json!({"key": STANDARD.encode(key)})).await?;
        let value = answer["kvs"][0]["value"].as_str().with_context(|| format!("etcd has no key {key}"))?;
        STANDARD.decode(value).with_context(|| format!("reading etcd's {key}"))
    }

    /// Stores values, several at once, each in a transaction of its own. All values of one transaction have the same
    /// revision, and a Kubernetes watch that resumes at that revision would miss some of them.
    pub async fn put(&self, pairs: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<()> {
        let put = |(key, value): (String, Vec<u8>)| async move {
            self.ask("put", &json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)})).await
        };
        futures::stream::iter(pairs).map(put).buffer_unordered(AT_ONCE).try_for_each(|_| future::ready(Ok(()))).await
    }

    /// Compacts the history to the current revision, as Kubernetes does every few minutes. No watch can resume from
    /// before.
    pub async fn compact(&self) -> Result<()> {
        let now = self.ask("range", &json!({"key": STANDARD.encode([0]), "count_only": true})).await?;
        self.ask("compaction", &json!({"revision": now["header"]["revision"], "physical": true})).await?;
        Ok(())
    }

    async fn ask(&self, method: &str, question: &Value) -> Result<Value> {
        let url = format!("{}/v3/kv/{method}", self.url);
        let asked = self.client.post(url).json(question).send().await.and_then(reqwest::Response::error_for_status);
        asked.with_context(|| format!("calling {method} of etcd"))?.json().await.context("reading etcd's answer")
    }
}
