//! An embedded store in a folder of its own whose clock is moved by hand.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use flowline_model::Timestamp;
use flowline_queue::{EmbeddedOptions, EmbeddedQueue, History, Queue, conformance::Subject};
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

    fn open(&mut self) {
        let clock = self.clock.clone();
        let options = EmbeddedOptions::steered(Arc::new(move || Timestamp::from_millis(clock.load(SeqCst))));
        self.store = Some(EmbeddedQueue::open(&self.folder(), options).expect("it opens"));
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
        let millis = i64::try_from(time.as_millis()).expect("a short time");
        self.clock.fetch_add(millis, SeqCst);
        // The store looks at its clock every few milliseconds.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }

    async fn restart(&mut self) {
        self.store().close().await;
        self.store = None;
        self.open();
    }
}
