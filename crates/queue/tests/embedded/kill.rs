//! `kill -9` under load: everything that was acknowledged is there, exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use flowline_model::{Enqueue, Event, EventKind, Settlement, Verdict};
use flowline_queue::{EmbeddedQueue, Lease, LeaseRequest, Publication, Queue, QueueError, embedded::doctor};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::steered::{declare, message, name, number, open};

const FOLDER: &str = "FLOWLINE_TEST_CHILD";
const FIRST: &str = "FLOWLINE_TEST_FIRST";

/// What the child was told by the store before it died.
#[derive(Default)]
struct Acknowledged {
    published: BTreeSet<u64>,
    settled: BTreeSet<u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_kill_is_there_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    declare(&store, &["a", "b"]).await;
    store.close().await;
    drop(store);
    let mut random = StdRng::seed_from_u64(5);
    let mut all = Acknowledged::default();
    for round in 0..6 {
        let mut child = start(folder.path(), round * 1_000_000);
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reading = std::thread::spawn(move || read(lines));
        tokio::time::sleep(Duration::from_millis(random.random_range(150..600))).await;
        if round == 0 {
            let refused = open(folder.path()).expect_err("the child has the folder").to_string();
            assert!(refused.contains(&format!("process {}", child.id())), "{refused}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let told = reading.join().unwrap();
        all.published.extend(told.published);
        all.settled.extend(told.settled);
        check(folder.path(), &all).await;
    }
    assert!(all.published.len() > 50 && all.settled.len() > 20, "there was load");
    let report = doctor(folder.path(), false).unwrap();
    assert!(report.is_healthy(), "{report:?}");
}

async fn check(folder: &Path, all: &Acknowledged) {
    let store = open(folder).expect("a killed store opens");
    let waiting = everything(&store, "a").await;
    let passed = everything(&store, "b").await;
    assert!(waiting.keys().all(|number| !passed.contains_key(number)), "nothing is on both queues");
    for number in &all.published {
        assert!(waiting.contains_key(number) || passed.contains_key(number), "{number} was accepted and is gone");
    }
    for number in &all.settled {
        assert!(passed.contains_key(number), "{number} was settled and came back");
    }
    let depths = store.depths().await.unwrap();
    let counted: Vec<u64> = depths.iter().map(|depth| depth.leased).collect();
    assert_eq!(counted, [waiting.len() as u64, passed.len() as u64], "the counters are exact");
    store.close().await;
}

/// Leases everything on a queue: number and attempt.
async fn everything(store: &EmbeddedQueue, step: &str) -> BTreeMap<u64, u32> {
    let mut all = BTreeMap::new();
    loop {
        let leases = lease(store, step, 1_000).await.unwrap();
        if leases.is_empty() {
            return all;
        }
        for lease in leases {
            assert_eq!(all.insert(number(&lease), lease.delivery.attempt), None, "doubled");
        }
    }
}

async fn lease(store: &EmbeddedQueue, step: &str, messages: usize) -> Result<Vec<Lease>, QueueError> {
    let request = LeaseRequest {
        messages,
        bytes: usize::MAX,
        duration: Duration::from_secs(600),
        wait: Duration::from_millis(1),
    };
    store.lease(&name(step), request).await
}

fn start(folder: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture", "--ignored"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn read(lines: impl BufRead) -> Acknowledged {
    let mut told = Acknowledged::default();
    for line in lines.lines().map_while(Result::ok) {
        let number = |text: &str| text.parse().ok();
        if let Some(number) = line.strip_prefix("published ").and_then(number) {
            told.published.insert(number);
        } else if let Some(number) = line.strip_prefix("settled ").and_then(number) {
            told.settled.insert(number);
        }
    }
    told
}

/// The process that is killed; says what the store has acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = Arc::new(open(Path::new(&folder)).unwrap());
    let publishers = (0..4).map(|lane| tokio::spawn(publish_for_ever(store.clone(), first + lane * 100_000)));
    let workers = (0..2).map(|_| tokio::spawn(work_for_ever(store.clone())));
    for task in publishers.chain(workers).collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

async fn publish_for_ever(store: Arc<EmbeddedQueue>, first: u64) {
    for number in first.. {
        let publication = Publication { messages: vec![message(number)], ..Publication::default() };
        store.publish(publication).await.unwrap();
        writeln!(std::io::stdout().lock(), "published {number}").unwrap();
    }
}

async fn work_for_ever(store: Arc<EmbeddedQueue>) {
    loop {
        for lease in lease(&store, "a", 8).await.unwrap() {
            let number = number(&lease);
            let done = Settlement {
                verdict: Verdict::Done,
                emits: vec![Enqueue { queue: name("b"), ..message(number) }],
                state: Vec::new(),
                events: vec![done_event(&lease)],
            };
            store.settle(&lease, done).await.unwrap();
            writeln!(std::io::stdout().lock(), "settled {number}").unwrap();
        }
    }
}

fn done_event(lease: &Lease) -> Event {
    let delivery = &lease.delivery;
    Event {
        execution: delivery.message.execution,
        queue: delivery.queue.clone(),
        message: delivery.message.id,
        kind: EventKind::Done,
        version: 1,
        attempt: delivery.attempt,
        started_at: delivery.enqueued_at,
        ended_at: delivery.enqueued_at,
        emitted: 1,
        outputs: Vec::new(),
        fault: None,
    }
}

#[tokio::test]
async fn a_message_that_was_leased_at_the_kill_counts_an_attempt() {
    let mut embedded = crate::steered::Embedded::new();
    declare(embedded.store(), &["a"]).await;
    publish_all(embedded.store(), 3).await;
    for attempt in 1..=3 {
        let leases = lease(embedded.store(), "a", 1).await.unwrap();
        assert_eq!((number(&leases[0]), leases[0].delivery.attempt), (0, attempt));
        // The lease is written down beside the caller.
        tokio::time::sleep(Duration::from_millis(50)).await;
        embedded.kill();
    }
    let all = everything(embedded.store(), "a").await;
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [(0, 4), (1, 1), (2, 1)]);
}

async fn publish_all(store: &EmbeddedQueue, count: u64) {
    crate::steered::publish(store, 0..count).await;
}
