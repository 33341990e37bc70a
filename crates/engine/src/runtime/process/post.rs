//! The post: brings each message to a child that is free, and its answer back.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flowline_model::{Fault, Message, OperationKind};
use flowline_sdk::{Context, Produced, Remote};
use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use super::protocol::{self, Answer};

/// A child that is up for so long takes messages, if it did not say so before.
const SETTLED: Duration = Duration::from_millis(300);
/// How often that doubles at most.
const MOST_DOUBLINGS: u32 = 5;

/// Where a poll's snapshot is remembered.
const SNAPSHOT: &str = "snapshot";

/// A message for a child.
pub(super) struct Parcel {
    /// The line that asks.
    pub(super) line: String,
    /// When its time is up.
    pub(super) until: Instant,
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<Result<Answer, Fault>>,
}

/// A child that takes messages.
pub(super) type Desk = mpsc::Sender<Parcel>;

/// Brings messages to children.
pub(super) struct Post {
    kind: OperationKind,
    timeout: Duration,
    room: watch::Sender<usize>,
    free: Mutex<VecDeque<Desk>>,
    freed: Notify,
    /// How many children in a row ended without ever having said a word.
    silent: AtomicU32,
}

impl Post {
    pub(super) fn new(kind: OperationKind, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            kind,
            timeout,
            room: watch::Sender::new(0),
            free: Mutex::default(),
            freed: Notify::new(),
            silent: AtomicU32::new(0),
        })
    }

    /// How long a child must have been up before it is given a message: the longer, the more of
    /// those before it ended without a word. A program that cannot even start costs no message
    /// its attempts, however slow the machine is.
    pub(super) fn settled(&self) -> Duration {
        SETTLED * (1 << self.silent.load(Ordering::Relaxed).min(MOST_DOUBLINGS))
    }

    /// A child has spoken.
    pub(super) fn spoke(&self) {
        self.silent.store(0, Ordering::Relaxed);
    }

    /// A child has ended without a word.
    pub(super) fn was_silent(&self) {
        self.silent.fetch_add(1, Ordering::Relaxed);
    }

    fn free<T>(&self, look: impl FnOnce(&mut VecDeque<Desk>) -> T) -> T {
        look(&mut self.free.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A child begins to take messages.
    pub(super) fn open(&self, desk: Desk) {
        self.room.send_modify(|room| *room += 1);
        self.release(desk);
    }

    /// A child is free again.
    pub(super) fn release(&self, desk: Desk) {
        self.free(|free| free.push_back(desk));
        self.freed.notify_one();
    }

    /// A child takes no more messages.
    pub(super) fn close(&self) {
        self.room.send_modify(|room| *room = room.saturating_sub(1));
        // Those that are gone must not be given anything.
        self.free(|free| free.retain(|desk| !desk.is_closed()));
    }

    async fn take(&self) -> Desk {
        loop {
            let freed = self.freed.notified();
            if let Some(desk) = self.free(VecDeque::pop_front) {
                if desk.is_closed() {
                    continue;
                }
                // Another may wait for one that is free as well.
                if self.free(|free| !free.is_empty()) {
                    self.freed.notify_one();
                }
                return desk;
            }
            freed.await;
        }
    }

    async fn ask(&self, line: String) -> Result<Answer, Fault> {
        loop {
            let desk = self.take().await;
            let (answer, answered) = oneshot::channel();
            let parcel = Parcel { line: line.clone(), until: Instant::now() + self.timeout, answer };
            if desk.send(parcel).await.is_err() {
                continue;
            }
            let gone = || Fault::retry("worker_lost", "its worker ended while it worked on the message");
            return answered.await.unwrap_or_else(|_| Err(gone()));
        }
    }
}

#[async_trait]
impl Remote for Post {
    fn room(&self) -> watch::Receiver<usize> {
        self.room.subscribe()
    }

    async fn run(&self, cx: &Context, config: Value, input: Message) -> Result<Produced, Fault> {
        let body = config.get("input").unwrap_or(&input.body);
        let polls = self.kind == OperationKind::Polling;
        let snapshot = match polls {
            true => Some(cx.state(SNAPSHOT).await?.unwrap_or(Value::Null)),
            false => None,
        };
        let line = protocol::ask(cx.place(), &input, body, snapshot)?;
        let answer = self.ask(line).await?;
        if let Some(snapshot) = answer.snapshot.filter(|_| polls) {
            cx.remember(SNAPSHOT, snapshot)?;
        }
        Ok(Produced { emits: answer.emits, more: false })
    }
}
