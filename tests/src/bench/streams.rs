//! Media that the operator sends: how soon they begin, and its memory while many readers are slow.

use super::figure::{Figure, Sample, quantile};
use super::process_cost::{resident_memory, wait_until_idle};
use crate::world::World;
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use qemu::paths;
use reqwest::{Certificate, Client, Response, header};
use serde_json::json;
use std::fs;
use std::time::Instant;

static FIRST_BYTE: Figure =
    Figure::new("stream-first-byte-p99", "streamed medium: first byte, 99 of 100", "ms").at_most(5.0);
static SPEED: Figure = Figure::new("stream-speed", "streamed medium: one reader", "MiB/s");
static MEMORY: Figure =
    Figure::new("streams-memory", "operator's memory at its highest, 1,000 streams", "MiB").at_most(160.0);
static EACH: Figure = Figure::new("streams-memory-each", "memory of each stream", "KiB").at_most(128.0);

pub static FIGURES: &[&Figure] = &[&FIRST_BYTE, &SPEED, &MEMORY, &EACH];

const STREAMS: usize = 1000;
/// How many begin at the same time.
const PARALLEL: usize = 16;
const REQUESTS: usize = 1000;
const KIB: f64 = 1024.0;

/// One run, with the ISO of `make image`.
pub async fn measure() -> Result<Vec<Sample>> {
    let builder = World::builder("bench-streams")?.registration(json!({}));
    let media = builder.folder("media")?;
    fs::copy(paths::iso()?, media.join("ros.iso")).context("copying the ISO")?;
    let builder = builder.setting("ROS_MEDIA", media.to_str().context("the folder's name")?);
    let world = builder.setting("ROS_DOWNLOADS", &STREAMS.to_string()).start().await?;
    let url = world.media_url("ros.iso").await?;
    let authority = Certificate::from_pem(world.operator.ca().await?.as_bytes()).context("the operator's authority")?;
    let client = Client::builder().add_root_certificate(authority).build().context("making a client")?;

    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        let answer = client.get(&url).header(header::RANGE, "bytes=0-0").send().await?.error_for_status()?;
        ensure!(answer.bytes().await?.len() == 1, "another length than was asked for");
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }

    let (begun, mut whole, mut size) = (Instant::now(), client.get(&url).send().await?.error_for_status()?, 0);
    while let Some(chunk) = whole.chunk().await? {
        size += chunk.len();
    }
    let speed = size as f64 / KIB / KIB / begun.elapsed().as_secs_f64();

    let pid = world.operator.pid()?;
    wait_until_idle(pid).await?;
    let [before, _] = resident_memory(pid)?;
    // Each reads the first piece and then nothing, so that everything that the operator keeps for it fills.
    let begin = async || -> Result<Response> {
        let mut stream = client.get(&url).send().await?.error_for_status()?;
        stream.chunk().await?.context("an empty medium")?;
        Ok(stream)
    };
    let streams: Vec<Response> =
        stream::iter(0..STREAMS).map(|_| begin()).buffer_unordered(PARALLEL).try_collect().await?;
    let [_, highest] = resident_memory(pid)?;
    // A reader that takes nothing for 30 s is closed.
    let open = world.operator.metrics().await?.contains(&format!("rancheros_downloads {STREAMS}\n"));
    ensure!(open, "not all streams are open at the same time");
    drop(streams);
    Ok(vec![
        FIRST_BYTE.is(quantile(&times, 0.99).context("no times")?),
        SPEED.is(speed),
        MEMORY.is(highest as f64 / KIB / KIB),
        EACH.is(highest.saturating_sub(before) as f64 / KIB / STREAMS as f64),
    ])
}
