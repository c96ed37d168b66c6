//! etcd behind a test's API server, over its JSON gateway: for what the API server cannot do or is too slow for.
//!
//! Source: etcd's `api/etcdserverpb/rpc.proto` v3.6; in JSON, `bytes` are base64.

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Operations that etcd takes in one transaction, unless told otherwise (`--max-txn-ops`).
const OPERATIONS: usize = 128;

pub struct Etcd {
    client: reqwest::Client,
    url: String,
}

impl Etcd {
    /// `url` is the one that clients use.
    pub fn new(url: &str) -> Self {
        Self { client: reqwest::Client::new(), url: url.to_owned() }
    }

    /// What is stored under a key.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let answer = self.ask("range", &json!({"key": STANDARD.encode(key)})).await?;
        let value = answer["kvs"][0]["value"].as_str().with_context(|| format!("etcd holds no {key}"))?;
        STANDARD.decode(value).with_context(|| format!("reading etcd's {key}"))
    }

    /// Stores values, many in one transaction.
    pub async fn put(&self, pairs: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<()> {
        let mut pairs = pairs.into_iter().peekable();
        while pairs.peek().is_some() {
            let put = |(key, value): (String, Vec<u8>)| json!({"requestPut": {"key": STANDARD.encode(key), "value": STANDARD.encode(value)}});
            let operations: Vec<Value> = pairs.by_ref().take(OPERATIONS).map(put).collect();
            self.ask("txn", &json!({"success": operations})).await?;
        }
        Ok(())
    }

    /// Forgets everything but the present, as it does every few minutes: a watch cannot be resumed from before.
    pub async fn compact(&self) -> Result<()> {
        let now = self.ask("range", &json!({"key": STANDARD.encode([0]), "count_only": true})).await?;
        self.ask("compaction", &json!({"revision": now["header"]["revision"], "physical": true})).await?;
        Ok(())
    }

    async fn ask(&self, method: &str, question: &Value) -> Result<Value> {
        let url = format!("{}/v3/kv/{method}", self.url);
        let asked = self.client.post(url).json(question).send().await.and_then(reqwest::Response::error_for_status);
        asked.with_context(|| format!("asking etcd for {method}"))?.json().await.context("reading etcd's answer")
    }
}
