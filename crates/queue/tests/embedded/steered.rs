//! An embedded store in a folder of its own whose clock is moved by hand, and the few messages
//! that the tests use.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use flowline_model::{Enqueue, FlowName, Message, MessageId, QueueName, StepId, Timestamp};
use flowline_queue::{
    EmbeddedOptions, EmbeddedQueue, History, Lease, LeaseRequest, Limits, Publication, Queue, QueueDeclaration,
    QueueError, Topology, conformance::Subject,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A store, its folder and its clock.
pub(crate) struct Embedded {
    folder: TempDir,
    clock: Arc<AtomicI64>,
    store: Option<EmbeddedQueue>,
}

impl Embedded {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(AtomicI64::new(1_790_000_000_000));
        let mut embedded = Self { folder: tempfile::tempdir().expect("a folder"), clock, store: None };
        embedded.open();
        embedded
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().join("queue")
    }

    pub(crate) fn store(&self) -> &EmbeddedQueue {
        self.store.as_ref().expect("it is open")
    }

    fn options(&self) -> EmbeddedOptions {
        let clock = self.clock.clone();
        EmbeddedOptions::steered(Arc::new(move || Timestamp::from_millis(clock.load(SeqCst))))
    }

    fn open(&mut self) {
        self.store = Some(EmbeddedQueue::open(&self.folder(), self.options()).expect("it opens"));
    }

    /// Moves the clock; the store sees it a few milliseconds later.
    pub(crate) fn advance(&self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).expect("a short time");
        self.clock.fetch_add(millis, SeqCst);
    }

    /// How many messages the lease log says are with workers.
    pub(crate) fn leases_on_disk(&self) -> usize {
        let bytes = fs::read(self.folder().join("leases")).expect("the lease log");
        let mut leased = BTreeSet::new();
        for record in bytes.as_chunks::<32>().0 {
            let seq = &record[24..];
            if record[..4] == 0x4c45_4153_u32.to_le_bytes() {
                leased.insert(seq.to_vec());
            } else {
                leased.remove(seq);
            }
        }
        leased.len()
    }

    /// Opens the store as it would be found had the process been killed now.
    pub(crate) fn kill(&mut self) {
        let beside = self.folder.path().join("killed");
        copy_store(&self.folder(), &beside);
        self.store = None;
        fs::remove_dir_all(self.folder()).expect("removed");
        fs::rename(beside, self.folder()).expect("renamed");
        self.open();
    }
}

#[async_trait]
impl Subject for Embedded {
    fn queue(&self) -> &dyn Queue {
        self.store()
    }

    fn history(&self) -> &dyn History {
        self.store()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.load(SeqCst))
    }

    async fn pass(&mut self, time: Duration) {
        self.advance(time);
        // The store looks at its clock every few milliseconds.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }

    async fn restart(&mut self) {
        self.store().close().await;
        self.store = None;
        self.open();
    }
}

/// Copies the files of a store, which no commit changes meanwhile.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for name in ["queue.db", "queue.db-wal", "commit", "leases"] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).expect("copied");
        }
    }
}

pub(crate) fn name(step: &str) -> QueueName {
    QueueName::new(FlowName::new("test").expect("a name"), StepId::new(step).expect("a name"))
}

pub(crate) fn message(number: u64) -> Enqueue {
    let mut random = [7; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    let id = MessageId::root(Timestamp::from_millis(1_790_000_000_000), random);
    let message = Message {
        id,
        execution: id,
        parent: None,
        version: 1,
        body: json!({ "number": number, "text": format!("{number:0>100}") }),
        headers: Default::default(),
        attachments: Vec::new(),
        steps: Default::default(),
    };
    Enqueue { queue: name("a"), message, ready_at: None, group: None }
}

pub(crate) fn number(lease: &Lease) -> u64 {
    let body = &lease.delivery.message.body;
    let number = body.get("number").and_then(Value::as_u64).expect("a test's message");
    assert_eq!(body["text"], format!("{number:0>100}"), "it is as it was published");
    number
}

pub(crate) fn open(folder: &Path) -> Result<EmbeddedQueue, QueueError> {
    EmbeddedQueue::open(folder, EmbeddedOptions::default())
}

pub(crate) async fn declare(store: &EmbeddedQueue, steps: &[&str]) {
    let declaration = |step: &&str| QueueDeclaration { name: name(step), limits: Limits::default() };
    store.declare(&Topology { queues: steps.iter().map(declaration).collect() }).await.expect("declared");
}

pub(crate) async fn publish(store: &EmbeddedQueue, numbers: impl IntoIterator<Item = u64>) {
    let messages = numbers.into_iter().map(message).collect();
    store.publish(Publication { messages, ..Publication::default() }).await.expect("published");
}

/// Leases everything that is there for an hour.
pub(crate) async fn lease_all(store: &EmbeddedQueue) -> Vec<Lease> {
    let hour = Duration::from_secs(3_600);
    let request = LeaseRequest { messages: 1_000, bytes: usize::MAX, duration: hour, wait: Duration::ZERO };
    let mut all = Vec::new();
    loop {
        let leases = store.lease(&name("a"), request).await.expect("a lease");
        if leases.is_empty() {
            return all;
        }
        all.extend(leases);
    }
}

/// The numbers of all messages that wait; none may wait twice.
pub(crate) async fn numbers_in(store: &EmbeddedQueue) -> BTreeSet<u64> {
    let leases = lease_all(store).await;
    let numbers: BTreeSet<u64> = leases.iter().map(number).collect();
    assert_eq!(numbers.len(), leases.len(), "no message is there twice");
    numbers
}
