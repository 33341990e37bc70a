//! Deep queues: what is in memory stays bounded, however much waits.

use std::time::Duration;

use flowline_model::{Enqueue, Settlement, Timestamp, Verdict};
use flowline_queue::{EmbeddedQueue, History, Lease, LeaseRequest, Publication, Queue, Retention};
use serde_json::json;

use crate::steered::{declare, message, name, number, open, publish};

const WINDOW: u64 = 512;
const WINDOW_BYTES: u64 = 1 << 20;
const ALL_WINDOWS_BYTES: u64 = 32 << 20;

async fn lease(store: &EmbeddedQueue, step: &str, messages: usize) -> Vec<Lease> {
    let hour = Duration::from_secs(3_600);
    let request = LeaseRequest { messages, bytes: usize::MAX, duration: hour, wait: Duration::ZERO };
    store.lease(&name(step), request).await.unwrap()
}

fn done() -> Settlement {
    Settlement { verdict: Verdict::Done, emits: Vec::new(), state: Vec::new(), events: Vec::new() }
}

#[tokio::test]
async fn two_hundred_thousand_waiting_messages_take_no_more_memory_than_a_few_hundred() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    declare(&store, &["a"]).await;
    for start in (0..200_000).step_by(2_000) {
        publish(&store, start..start + 2_000).await;
        assert!(store.stats().window_messages <= WINDOW);
    }
    assert!(store.stats().window_bytes <= WINDOW_BYTES + 4_096);
    store.close().await;

    let store = open(folder.path()).unwrap();
    assert_eq!(store.stats().window_messages, 0, "opening reads no message");
    assert_eq!(store.depths().await.unwrap()[0].ready, 200_000);
    for expected in 0..20 {
        let leases = lease(&store, "a", 100).await;
        assert_eq!(
            leases.iter().map(number).collect::<Vec<_>>(),
            (expected * 100..expected * 100 + 100).collect::<Vec<_>>()
        );
        for lease in &leases {
            store.settle(lease, done()).await.unwrap();
        }
        let stats = store.stats();
        assert!(stats.window_messages <= WINDOW && stats.window_bytes <= WINDOW_BYTES, "{stats:?}");
    }
    assert_eq!(store.discard(&name("a")).await, Ok(198_000));
    assert_eq!(store.depths().await.unwrap()[0].bytes, 0);
    store.close().await;
}

#[tokio::test]
async fn many_queues_share_one_bound() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let steps: Vec<String> = (0..60).map(|step| format!("step-{step}")).collect();
    declare(&store, &steps.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let large = |step: &str, number| {
        let mut large = Enqueue { queue: name(step), ..message(number) };
        large.message.body = json!({ "number": number, "text": "x".repeat(10_000) });
        large
    };
    for step in &steps {
        let messages = (0..60).map(|number| large(step, number)).collect();
        store.publish(Publication { messages, ..Publication::default() }).await.unwrap();
    }
    assert!(store.stats().window_bytes <= ALL_WINDOWS_BYTES + WINDOW_BYTES, "{:?}", store.stats());
    for _ in 0..2 {
        for step in &steps {
            let mut seen = 0;
            while seen < 30 {
                // Half of what each holds in either round, however little stands in memory at a time.
                let leases = lease(&store, step, 10.min(30 - seen)).await;
                assert!(!leases.is_empty(), "every queue gets its turn");
                seen += leases.len();
            }
            assert!(store.stats().window_bytes <= ALL_WINDOWS_BYTES + WINDOW_BYTES, "{:?}", store.stats());
        }
    }
    store.close().await;
}

#[tokio::test]
async fn a_long_group_is_not_held_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    declare(&store, &["a"]).await;
    for start in (0..20_000).step_by(2_000) {
        let grouped = |number| Enqueue { group: Some("only".into()), ..message(number) };
        let messages = (start..start + 2_000).map(grouped).collect();
        store.publish(Publication { messages, ..Publication::default() }).await.unwrap();
    }
    assert!(store.stats().window_messages <= 1);
    store.close().await;
    let store = open(folder.path()).unwrap();
    for expected in 0..100 {
        let leases = lease(&store, "a", 100).await;
        assert_eq!(leases.iter().map(number).collect::<Vec<_>>(), [expected]);
        store.settle(&leases[0], done()).await.unwrap();
    }
    assert!(store.stats().window_messages <= 1);
    assert_eq!(store.depths().await.unwrap()[0].ready, 19_900);
    store.close().await;
}

#[tokio::test]
async fn the_room_of_what_is_forgotten_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let everything = Retention { before: Timestamp::from_millis(i64::MAX), bytes: 0, recorded: u64::MAX };
    let mut sizes = Vec::new();
    for round in 0..5 {
        let store = open(folder.path()).unwrap();
        declare(&store, &["a"]).await;
        publish(&store, round * 3_000..round * 3_000 + 3_000).await;
        assert_eq!(store.discard(&name("a")).await, Ok(3_000));
        while store.forget(everything).await.unwrap() > 0 {}
        store.close().await;
        sizes.push(store.stats().file_bytes);
    }
    assert!(sizes[4] <= sizes[1] + sizes[1] / 10, "{sizes:?}");
}
