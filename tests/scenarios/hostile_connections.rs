//! Connections of strangers: however many there are, honest machines register, and the memory that the operator uses
//! for the others is bounded.

use anyhow::{Context, Result};
use aws_lc_rs::rand;
use harness::bench::process_cost::resident_memory;
use harness::clients::hostile_connections::{Behaviour, Connections};
use harness::fakes::software_machine::{Endpoint, NoAnswer, usual_report};
use harness::fakes::software_tpm::{KeyKind, SoftwareTpm};
use harness::world::World;
use qemu::wait::{Poll, until};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A machine waits 30 s for a connection.
const TIMEOUT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
/// The chart gives the operator 256 MiB. Thousands of inventories take a part of it.
const MEMORY: u64 = 192 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_that_say_nothing_keep_no_machine_out() {
    let world = World::start("hostile-silent", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    let connections = Connections::open(10_000, &endpoint, Behaviour::Silent).unwrap();
    connections.all_connected().await.unwrap();
    machines_register_meanwhile(&world, &endpoint, "10,000 silent connections", 2).await.unwrap();
    drop(connections);
    nothing_is_left_of_them(&world).await.unwrap();
    assert!(figure(&world, r#"connections_made_room_total{connection="silent"}"#).await.unwrap() > 0);
    assert_eq!(world.inventories().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_or_malformed_requests_keep_no_machine_out() {
    let world = World::start("hostile-speak", json!({})).await.unwrap();
    let endpoint = world.endpoint().await.unwrap();
    // More than the operator has permits. Each sends almost as much as the headers of a request may have.
    let connections = Connections::open(700, &endpoint, Behaviour::SlowHeaders(60_000)).unwrap();
    connections.all_connected().await.unwrap();
    machines_register_meanwhile(&world, &endpoint, "700 slow requests", 2).await.unwrap();
    drop(connections);
    nothing_is_left_of_them(&world).await.unwrap();
    assert!(figure(&world, r#"connections_made_room_total{connection="speaking"}"#).await.unwrap() > 0);

    // These know the token of a medium.
    let connections = Connections::open(300, &endpoint, Behaviour::SlowFrames).unwrap();
    connections.all_connected().await.unwrap();
    machines_register_meanwhile(&world, &endpoint, "300 slow websockets", 2).await.unwrap();
    drop(connections);
    nothing_is_left_of_them(&world).await.unwrap();
    assert!(figure(&world, REFUSED_BUSY).await.unwrap() > 0);

    send_nonsense(&endpoint).await.unwrap();
    until("two messages refused for their size", TIMEOUT, async || {
        let refused = figure(&world, REFUSED_TOO_BIG).await?;
        Ok(if refused == 2 { Poll::Ready(()) } else { Poll::Pending(refused.to_string()) })
    })
    .await
    .unwrap();
    machines_register_meanwhile(&world, &endpoint, "nonsense", 1).await.unwrap();
    nothing_is_left_of_them(&world).await.unwrap();
    assert_eq!(world.inventories().unwrap().len(), 5);
}

const REFUSED_BUSY: &str = r#"exchanges_total{request="open",result="refused",code="Busy"}"#;
const REFUSED_TOO_BIG: &str = r#"exchanges_total{request="open",result="refused",code="MessageTooBig"}"#;

/// Registers this many machines, one after the other, each within its time limit.
async fn machines_register_meanwhile(world: &World, endpoint: &Endpoint, among: &str, machines: usize) -> Result<()> {
    for number in 1..=machines {
        let tpm = SoftwareTpm::new(KeyKind::P256)?;
        let begun = Instant::now();
        until(&format!("machine {number} to register among {among}"), TIMEOUT, async || {
            match timeout(TIMEOUT, endpoint.register(&tpm, usual_report("SN-1"))).await {
                Ok(Ok(_)) => Ok(Poll::Ready(())),
                Ok(Err(NoAnswer::Refused(refusal))) if !refusal.code.may_succeed_later() => Err(refusal.into()),
                Ok(Err(error)) => Ok(Poll::Pending(error.to_string())),
                Err(_) => anyhow::bail!("no answer within {} s", TIMEOUT.as_secs()),
            }
        })
        .await?;
        println!("machine {number} among {among}: {} ms", begun.elapsed().as_millis());
    }
    let [_, highest] = resident_memory(world.operator.pid()?)?;
    println!("memory among {among}: {} MiB at its highest", highest / MIB);
    anyhow::ensure!(highest < MEMORY, "{} MiB of memory among {among}", highest / MIB);
    Ok(())
}

/// Opens connections that send nonsense, all at once. The operator must close each of them.
async fn send_nonsense(endpoint: &Endpoint) -> Result<()> {
    let mut random = vec![0; 1_000_000];
    rand::fill(&mut random).ok().context("creating random bytes")?;
    // RFC 6455, section 5.2: the last frame of a text, or a binary one, with eight bytes of length; the mask.
    let frame = |opcode: u8| {
        let length = (random.len() as u64).to_be_bytes();
        [&[0x80 | opcode, 0x80 | 127][..], &length, &[0; 4], &random].concat()
    };
    let upgrade = endpoint.upgrade_request()?.into_bytes();
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(MIB as usize)).into_bytes();
    let many = "X: y\r\n".repeat(MIB as usize / 6);
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").into_bytes();
    let framed = [1, 2].map(|opcode| [upgrade.clone(), frame(opcode)].concat());
    let unframed = [upgrade, random.clone()].concat();
    for nonsense in [long, many, unframed].into_iter().chain(framed) {
        let answer = over_tls(endpoint, &nonsense).await?;
        let accepted = answer.starts_with("HTTP/1.1 200");
        anyhow::ensure!(!accepted, "{} bytes of nonsense were answered with {answer}", nonsense.len());
    }
    let mut stream = TcpStream::connect(endpoint.address()?).await?;
    // The operator may close the connection before the last byte.
    let _ = stream.write_all(&random).await;
    ended(&mut stream).await.map(drop)
}

async fn over_tls(endpoint: &Endpoint, nonsense: &[u8]) -> Result<String> {
    let mut stream = endpoint.shake_hands(TcpStream::connect(endpoint.address()?).await?).await?;
    let _ = stream.write_all(nonsense).await;
    let _ = stream.flush().await;
    ended(&mut stream).await
}

/// Everything received until the connection ended.
async fn ended(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<String> {
    let mut said = Vec::new();
    let _ = timeout(TIMEOUT, stream.read_to_end(&mut said)).await.context("waiting for the end of a connection")?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

async fn nothing_is_left_of_them(world: &World) -> Result<()> {
    until("nothing left of hostile connections", TIMEOUT, async || {
        // This request is one connection.
        Ok(match (figure(world, "connections").await, figure(world, "exchanges_in_flight").await) {
            (Ok(1), Ok(0)) => Poll::Ready(()),
            left => Poll::Pending(format!("{left:?}")),
        })
    })
    .await
}

/// One of the operator's metrics; 0 if it does not exist yet.
async fn figure(world: &World, name: &str) -> Result<u64> {
    let figures = world.operator.metrics().await?;
    let line = figures.lines().find_map(|line| line.strip_prefix("rancheros_")?.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(Ok(0), |value| value.parse().with_context(|| format!("reading {name}: {value}")))
}
