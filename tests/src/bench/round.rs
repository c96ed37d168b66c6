//! An action for each of many items, several at once, and its cost.

use super::api_writes::ApiWrites;
use super::figure::quantile;
use super::process_cost::{processor_time, wait_until_idle};
use anyhow::{Result, bail};
use api::MachineInventory;
use futures::StreamExt;
use kube::Resource;
use std::time::{Duration, Instant};

/// One action of every machine, and its cost for operator and API server. It includes the work after the last answer.
pub struct Round {
    pub run: Run,
    processor: Duration,
    writes: ApiWrites,
}

impl Round {
    pub async fn take<T>(
        client: &kube::Client,
        pid: u32,
        items: &[T],
        parallel: usize,
        act: impl AsyncFn(&T) -> Result<()>,
    ) -> Result<Self> {
        let (processor, writes) = (processor_time(pid)?, ApiWrites::so_far(client).await?);
        let run = Run::take(items, parallel, act).await;
        wait_until_idle(pid).await?;
        let round = Self {
            run,
            processor: processor_time(pid)? - processor,
            writes: ApiWrites::so_far(client).await?.since(&writes),
        };
        eprintln!("  API writes: {}", round.writes);
        Ok(round)
    }

    /// Milliseconds of processor time for each success. The cost of failures is included.
    pub fn processor_per_success(&self) -> f64 {
        self.processor.as_secs_f64() * 1000.0 / self.run.latencies.len() as f64
    }

    /// Writes of inventories for each success.
    pub fn writes_per_success(&self) -> f64 {
        self.writes.of(&MachineInventory::plural(&())) / self.run.latencies.len() as f64
    }

    /// Writes of everything else (events, the Lease) per second.
    pub fn other_writes_per_second(&self) -> f64 {
        (self.writes.total() - self.writes.of(&MachineInventory::plural(&()))) / self.run.elapsed.as_secs_f64()
    }
}

/// The same action for each item, several at once.
pub struct Run {
    elapsed: Duration,
    /// Latencies of the successes, in seconds.
    pub latencies: Vec<f64>,
    pub failures: Vec<String>,
}

impl Run {
    pub async fn take<T>(items: &[T], parallel: usize, act: impl AsyncFn(&T) -> Result<()>) -> Self {
        let started = Instant::now();
        let timed = async |item| {
            let started = Instant::now();
            act(item).await.map(|()| started.elapsed().as_secs_f64())
        };
        let results: Vec<Result<f64>> =
            futures::stream::iter(items).map(timed).buffer_unordered(parallel).collect().await;
        let elapsed = started.elapsed();
        let (mut latencies, mut failures) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(latency) => latencies.push(latency),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        Self { elapsed, latencies, failures }
    }

    /// Successes per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of the successes does not exceed, in milliseconds.
    pub fn latency(&self, share: f64) -> Result<f64> {
        match (quantile(&self.latencies, share), self.failures.first()) {
            (Some(seconds), _) => Ok(seconds * 1000.0),
            (None, Some(failure)) => bail!("all {} failed; the first: {failure}", self.failures.len()),
            (None, None) => bail!("nothing to measure: no machines"),
        }
    }
}
