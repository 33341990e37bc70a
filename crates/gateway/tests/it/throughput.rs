//! How quickly messages go out and come back: a few in the tests, as many as one likes to measure.
//!
//! `FLOWLINE_MESSAGES=200000 cargo nextest run --release -p flowline-gateway --no-capture throughput`

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use flowline_sdk::{Contract, RemoteStep};
use futures::{StreamExt, future::join_all};
use lapin::options::BasicAckOptions;
use serde_json::json;

use crate::rig::{Rig, step};

const PREFETCH: u32 = 50;

/// Hands over messages with a body of 1 KiB, as many at the same time as there is room for.
async fn measure(contract: Contract) {
    let count = std::env::var("FLOWLINE_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000_u64);
    let rig = Arc::new(Rig::with(RemoteStep { prefetch: PREFETCH, contract, ..step("act") }, |_| {}).await);
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let acknowledging = tokio::spawn(async move {
        for _ in 0..count {
            let delivery = consumer.next().await.unwrap().unwrap();
            delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        }
    });
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let runs = (0..PREFETCH).map(|_| {
        let (rig, next) = (Arc::clone(&rig), Arc::clone(&next));
        tokio::spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let message = rig.message(json!({ "text": "x".repeat(1000) }));
                let produced = rig.step.run(&rig.context(&message, 1), json!({}), message).await.unwrap();
                assert!(produced.emits.is_empty() && !produced.more);
            }
        })
    });
    join_all(runs).await.into_iter().for_each(Result::unwrap);
    let took = begun.elapsed();
    acknowledging.await.unwrap();
    #[expect(clippy::cast_precision_loss, reason = "it is shown to people")]
    let rate = count as f64 / took.as_secs_f64();
    println!("{contract:?}: {count} messages of 1 KiB in {took:.2?}, {rate:.0}/s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_to_components() {
    measure(Contract::Component).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_to_our_own_workers() {
    measure(Contract::Worker).await;
}
