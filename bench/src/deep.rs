//! Deep queues: leasing and settling with ten million messages waiting, beside a thousand, and
//! the memory that they take. Straight on the embedded store, in this process.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use flowline_model::{Enqueue, FlowName, Message, MessageId, QueueName, Settlement, StepId, Timestamp, Verdict};
use flowline_queue::{
    EmbeddedOptions, EmbeddedQueue, Lease, LeaseRequest, Limits, Publication, Queue, QueueDeclaration, Topology,
};
use futures::future::try_join_all;
use serde_json::json;

use crate::{figure::Figure, process};

/// The shallow queue beside which the deep one is measured.
const SHALLOW: u64 = 1_000;
/// Messages leased at once.
const AT_ONCE: usize = 64;
/// Messages in one publication while the queue is filled.
const FILL: u64 = 2_000;
/// How long each depth is measured.
const PERIOD: Duration = Duration::from_secs(5);

/// Measures both depths.
pub(crate) async fn figures(deep: u64) -> Result<Vec<Figure>> {
    let shallow = Depth::measure(SHALLOW).await?;
    let depth = Depth::measure(deep).await?;
    Ok(vec![
        Figure::new(format!("{SHALLOW} waiting: leased and settled, per second"), format!("{:.0}", shallow.rate)),
        Figure::new(format!("{deep} waiting: leased and settled, per second"), format!("{:.0}", depth.rate)),
        Figure::at_least(format!("{deep} waiting ÷ {SHALLOW} waiting"), depth.rate / shallow.rate, 0.9, ""),
        Figure::new(format!("{SHALLOW} waiting: a lease, slowest"), format!("{:.2} ms", shallow.slowest_lease)),
        Figure::new(format!("{deep} waiting: a lease, slowest"), format!("{:.2} ms", depth.slowest_lease)),
        Figure::new(format!("{deep} waiting: opening the store"), format!("{:.2} ms", depth.opening)),
        Figure::new(format!("{deep} waiting: resident memory"), format!("{:.2} MB", depth.memory)),
    ])
}

/// What was found at one depth.
struct Depth {
    rate: f64,
    slowest_lease: f64,
    opening: f64,
    memory: f64,
}

impl Depth {
    /// Fills a queue, opens its store anew, and takes and settles from it while as many come
    /// back, so that it stays as deep as it is.
    async fn measure(waiting: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = open(folder.path()).await?;
        for start in (0..waiting).step_by(FILL as usize) {
            publish(&store, start..(start + FILL).min(waiting)).await?;
        }
        store.close().await;
        drop(store);
        let begin = Instant::now();
        let store = open(folder.path()).await?;
        let opening = begin.elapsed().as_secs_f64() * 1e3;
        let (mut settled, mut slowest_lease) = (0, Duration::ZERO);
        let begin = Instant::now();
        while begin.elapsed() < PERIOD {
            let asked = Instant::now();
            let leases = lease(&store).await?;
            slowest_lease = slowest_lease.max(asked.elapsed());
            ensure!(!leases.is_empty(), "the queue ran empty");
            let next = waiting + settled;
            settled += leases.len() as u64;
            let emits = (next..).map(|number| vec![message(number)]);
            try_join_all(leases.iter().zip(emits).map(|(lease, emits)| store.settle(lease, done(emits)))).await?;
        }
        let rate = settled as f64 / begin.elapsed().as_secs_f64();
        let memory = process::memory_of_this()?;
        store.close().await;
        Ok(Self { rate, slowest_lease: slowest_lease.as_secs_f64() * 1e3, opening, memory })
    }
}

async fn open(folder: &Path) -> Result<EmbeddedQueue> {
    let store = EmbeddedQueue::open(folder, EmbeddedOptions::default())?;
    let declaration = QueueDeclaration { name: queue(), limits: Limits::default() };
    store.declare(&Topology { queues: vec![declaration] }).await?;
    Ok(store)
}

async fn publish(store: &EmbeddedQueue, numbers: std::ops::Range<u64>) -> Result<()> {
    let messages = numbers.map(message).collect();
    store.publish(Publication { messages, ..Publication::default() }).await?;
    Ok(())
}

async fn lease(store: &EmbeddedQueue) -> Result<Vec<Lease>> {
    let minute = Duration::from_secs(60);
    let request = LeaseRequest { messages: AT_ONCE, bytes: usize::MAX, duration: minute, wait: Duration::ZERO };
    Ok(store.lease(&queue(), request).await?)
}

fn done(emits: Vec<Enqueue>) -> Settlement {
    Settlement { verdict: Verdict::Done, emits, state: Vec::new(), events: Vec::new() }
}

fn queue() -> QueueName {
    let name = |text: &str| StepId::new(text).unwrap_or_else(|_| unreachable!("`{text}` is a name"));
    let flow = FlowName::new("deep").unwrap_or_else(|_| unreachable!("`deep` is a name"));
    QueueName::new(flow, name("waiting"))
}

fn message(number: u64) -> Enqueue {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    let id = MessageId::root(Timestamp::from_millis(0), random);
    let message = Message {
        id,
        execution: id,
        parent: None,
        version: 1,
        body: json!({ "number": number, "text": "a message of a deep queue, two hundred bytes long or so, as it waits" }),
        headers: Default::default(),
        attachments: Vec::new(),
        steps: Default::default(),
    };
    Enqueue { queue: queue(), message, ready_at: None, group: None }
}
