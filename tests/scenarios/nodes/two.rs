//! Two nodes: a good release, a bad one that stops the roll-out, and a better one. Pods serve all the time.

use super::{Site, boot, os_image, release, shop};
use api::{condition_type, reason};
use harness::objects::condition;
use qemu::firmware::Firmware;
use std::collections::BTreeSet;
use std::time::Instant;

const PODS: usize = 3;
const SERVING: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn matrix_two_nodes_are_upgraded_while_their_pods_serve() {
    let started = Instant::now();
    let folder = release("0.1.0", "iso,raw").await;
    let site = Site::start("two-nodes", &folder, "0.1.0").await;
    let cluster = &site.world.cluster;
    let machines = [site.power_on("NODE-1").await, site.power_on_image("NODE-2", Firmware::Uefi).await];
    let mut members = Vec::new();
    for machine in machines {
        let member = site.booted(machine).await;
        site.join(&member).await;
        members.push(member);
    }
    println!("two nodes after {:.0} s", started.elapsed().as_secs_f64());
    let good = release("0.2.0", "oci").await;
    site.push(&good, "0.2.0").await.unwrap();
    site.push_bad(&good, "0.3.0").await.unwrap();
    shop::apply(cluster, PODS, SERVING).unwrap();
    let nodes: BTreeSet<String> = shop::whole(cluster).await.unwrap().into_iter().collect();
    assert_eq!(nodes.len(), 2, "pods are on both nodes: {nodes:?}");
    let watch = shop::Watch::begin(cluster).await.unwrap();

    let done = site.roll_out("0.2.0", reason::UPGRADED).await.unwrap();
    assert_eq!(done["status"]["counts"]["done"], 2, "{}", done["status"]);
    shop::whole(cluster).await.unwrap();
    watch.expect_at_least(SERVING).unwrap();
    assert_eq!(watch.fewest(), SERVING, "nodes were drained");
    let before: Vec<_> = members.iter().map(|member| site.node(member)).collect();
    assert!(before.iter().all(|node| os_image(node).contains("0.2.0")), "{before:?}");

    // One node tries the bad release and falls back. The other one is not touched.
    let failed = site.roll_out("0.3.0", reason::FAILED).await.unwrap();
    assert_eq!(condition(&failed, condition_type::STALLED)["status"], "True", "{}", failed["status"]);
    assert_eq!(failed["status"]["counts"]["failed"], 1, "{}", failed["status"]);
    for member in &members {
        site.uncordoned(&member.name).await.unwrap();
    }
    let after: Vec<_> = members.iter().map(|member| site.node(member)).collect();
    let restarted = before.iter().zip(&after).filter(|(before, after)| boot(before) != boot(after)).count();
    assert_eq!(restarted, 1, "one node has tried");
    assert!(after.iter().all(|node| os_image(node).contains("0.2.0")), "{after:?}");
    shop::whole(cluster).await.unwrap();

    // Another release goes on by itself.
    let better = release("0.3.1", "oci").await;
    site.push(&better, "0.3.1").await.unwrap();
    let done = site.roll_out("0.3.1", reason::UPGRADED).await.unwrap();
    assert_eq!(done["status"]["counts"]["done"], 2, "{}", done["status"]);
    shop::whole(cluster).await.unwrap();
    // The budget held at every moment.
    watch.expect_at_least(SERVING).unwrap();
    for member in &members {
        let (questions, answer) = shop::questions(cluster, &member.name).unwrap();
        for question in questions {
            let answered = site.root(member, &question).await;
            assert!(answered.starts_with(answer), "{answered}");
        }
    }
    println!("all of it: {:.0} s", started.elapsed().as_secs_f64());
}
