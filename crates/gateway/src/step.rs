//! One step and its workers: hands messages over, gathers what comes, says what came of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowline_model::{Fault, Message};
use flowline_sdk::{Context, Host, Place, Presence, RemoteStep};
use serde_json::Value;
use tokio::{
    sync::{OnceCell, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    amqp::{Publication, Verdict},
    board::{Board, Consumer, Dispatch, Ended, Found, Gathering},
    cipher::Cipher,
    gateway::Shared,
    gathered::{Gathered, NotTaken},
    headers,
    names::{Names, Purpose},
};

/// Why a publication was not taken.
#[derive(Debug)]
pub(crate) struct NotPublished {
    pub(crate) text: String,
    /// It may be taken later.
    pub(crate) passes: bool,
}

impl NotPublished {
    fn never(text: String) -> Self {
        Self { text, passes: false }
    }
}

/// One step that is open for workers.
pub(crate) struct Step {
    pub(crate) spec: RemoteStep,
    pub(crate) names: Names,
    pub(crate) cipher: Cipher,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) shared: Arc<Shared>,
    /// The marks of spools that an earlier process left are known.
    pub(crate) marks_read: OnceCell<()>,
    board: Mutex<Board>,
    room: watch::Sender<usize>,
}

impl Step {
    pub(crate) fn new(spec: RemoteStep, host: Arc<dyn Host>, shared: Arc<Shared>) -> Self {
        Self {
            names: Names::new(&spec.queue),
            cipher: Cipher::random(),
            host,
            shared,
            marks_read: OnceCell::new(),
            board: Mutex::new(Board::new(spec.prefetch)),
            room: watch::Sender::new(0),
            spec,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes who is there or who has what, and tells how much room there is.
    fn change<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let mut board = self.lock();
        let result = change(&mut board);
        let now = board.room();
        self.room.send_if_modified(|room| std::mem::replace(room, now) != now);
        result
    }

    pub(crate) fn room(&self) -> watch::Receiver<usize> {
        self.room.subscribe()
    }

    pub(crate) fn presence(&self, worker: &str) -> Option<Presence> {
        self.lock().presence(worker)
    }

    pub(crate) fn admit(&self, worker: &str) {
        self.change(|board| board.admit(worker, Instant::now()));
    }

    /// Ends everything of a worker.
    pub(crate) fn expel(&self, worker: &str, reason: &Fault) {
        for job in self.change(|board| board.expel(worker)) {
            // Whoever ran it may be gone.
            let _ = job.done.map(|done| done.send(Ended::Lost(reason.clone())));
        }
    }

    pub(crate) fn connect(&self, worker: &str) -> bool {
        let most = self.shared.settings.limits.worker_connections;
        self.change(|board| board.connect(worker, most, Instant::now()))
    }

    pub(crate) fn disconnect(&self, worker: &str) {
        self.change(|board| board.disconnect(worker));
    }

    pub(crate) fn heard(&self, worker: &str) {
        self.lock().heard(worker, Instant::now());
    }

    pub(crate) fn seat(
        &self,
        worker: &str,
        channel: u16,
        tag: &str,
        credit: u32,
        push: Option<mpsc::UnboundedSender<Dispatch>>,
    ) -> u64 {
        let consumer = Consumer { worker: worker.to_owned(), channel, tag: tag.to_owned(), credit, push };
        self.change(|board| {
            board.heard(worker, Instant::now());
            board.seat(consumer)
        })
    }

    pub(crate) fn unseat(&self, seat: u64) {
        self.change(|board| board.unseat(seat));
    }

    pub(crate) fn set_credit(&self, seat: u64, credit: u32) {
        self.change(|board| board.set_credit(seat, credit));
    }

    pub(crate) fn fetch(&self, worker: &str, seat: u64) -> Option<Dispatch> {
        self.change(|board| {
            board.heard(worker, Instant::now());
            board.fetch(seat)
        })
    }

    pub(crate) fn take_back(&self, dispatch: Dispatch) {
        self.change(|board| board.take_back(dispatch));
    }

    /// A worker settled what it held.
    pub(crate) fn settle(self: &Arc<Self>, worker: &str, number: u64, verdict: Verdict) {
        self.heard(worker);
        if verdict != Verdict::Reject {
            self.finish(number, Ended::Settled(verdict));
            return;
        }
        // The error that it refused the message for may come a moment after the refusal: old
        // runtimes send it without waiting.
        let Some(failed) = self.change(|board| board.let_go(number)) else { return };
        let step = Arc::clone(self);
        tokio::spawn(async move {
            // Without an error the refusal stands for itself.
            let _ = tokio::time::timeout(step.shared.settings.limits.mourning, failed.notified()).await;
            step.finish(number, Ended::Settled(verdict));
        });
    }

    fn finish(&self, number: u64, ended: Ended) {
        let job = self.change(|board| board.finish(number));
        // Whoever ran it may be gone.
        let _ = job.and_then(|job| job.done).map(|done| done.send(ended));
    }

    /// What was delivered on a connection or channel that is gone. The reason why may come a
    /// moment later and from somebody who knows better; until then the messages are kept.
    pub(crate) fn lose(self: &Arc<Self>, numbers: Vec<u64>) {
        if numbers.is_empty() {
            return;
        }
        self.change(|board| board.orphan(&numbers));
        let step = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(step.shared.settings.limits.mourning).await;
            for number in numbers {
                let reason = Fault::retry("worker_lost", "the worker's connection ended while it held the message");
                step.finish(number, Ended::Lost(reason));
            }
        });
    }

    /// Takes a publication for the delivery that it belongs to.
    pub(crate) async fn publish(&self, worker: &str, publication: &Publication) -> Result<(), NotPublished> {
        let Some(purpose) = self.names.purpose(&publication.key) else {
            return Err(NotPublished::never(format!("the routing key `{}` is not this step's", publication.key)));
        };
        self.heard(worker);
        match self.find(worker, &purpose, publication) {
            Found::Job(place, gathering) => self.gather(&purpose, publication, &place, &gathering).await,
            Found::Ended => {
                self.late(worker);
                Ok(())
            }
            Found::Unknown if purpose == Purpose::Error && parent(publication).is_none() => {
                self.not_started(worker, publication).await;
                Ok(())
            }
            Found::Unknown => Err(NotPublished::never(match parent(publication) {
                Some(parent) => format!("this worker does not hold a message `{parent}`"),
                None => "there is no header `parentMessageId`".to_owned(),
            })),
        }
    }

    fn find(&self, worker: &str, purpose: &Purpose, publication: &Publication) -> Found {
        let own = headers::text(&publication.properties, "messageId");
        let ids = match purpose {
            Purpose::Rebound => [own, parent(publication)],
            Purpose::Reply(id) => [parent(publication), Some(id.clone())],
            _ => [parent(publication), None],
        };
        let board = self.lock();
        let mut found = ids.into_iter().flatten().map(|id| board.find(worker, &id));
        found.find(|found| !matches!(found, Found::Unknown)).unwrap_or(Found::Unknown)
    }

    async fn gather(
        &self,
        purpose: &Purpose,
        publication: &Publication,
        place: &Place,
        gathering: &Gathering,
    ) -> Result<(), NotPublished> {
        let published = self.understand(purpose, publication, place).await;
        let mut gathered = gathering.lock().await;
        let Some(gathered) = gathered.as_mut() else {
            self.host.log(place, LATE);
            return Ok(());
        };
        let taken = gathered.take(published, &self.shared.spools, &self.spec.queue, place.message).await;
        taken.map_err(|error| NotPublished { text: error.to_string(), passes: matches!(error, NotTaken::Spool(_)) })
    }

    fn late(&self, worker: &str) {
        tracing::warn!(queue = %self.spec.queue, worker, "{LATE}");
    }

    /// A worker says that it could not start; there is no message that this belongs to.
    async fn not_started(&self, worker: &str, publication: &Publication) {
        let text = self.start_failure(publication);
        tracing::error!(queue = %self.spec.queue, worker, "the component did not start: {text}");
    }

    /// Hands a message to a worker and waits for what comes of it.
    pub(crate) async fn hand_over(
        &self,
        cx: &Context,
        config: Value,
        input: &Message,
    ) -> Result<(Ended, Gathered), Fault> {
        let limits = &self.shared.settings.limits;
        let gathered = Gathered::new(self.shared.gauge.clone(), (limits.emits, limits.emit_bytes));
        let (done, ended) = oneshot::channel();
        let (number, id, gathering) = self.change(|board| board.begin(cx.place().clone(), gathered, done));
        let guard = Guard { step: self, number, gathering };
        let content = self.compose(id, cx.place(), config, input).await?;
        self.change(|board| board.wait(number, content));
        let gone = || Fault::retry("worker_lost", "the step was closed while a worker held the message");
        let ended = ended.await.map_err(|_| gone())?;
        let gathered = guard.gathering.lock().await.take().ok_or_else(gone)?;
        Ok((ended, gathered))
    }
}

const LATE: &str = "a worker published for a message that it had finished, or that is not its any more; \
                    it is not kept: a component has to wait for its emits before it ends";

fn parent(publication: &Publication) -> Option<String> {
    headers::text(&publication.properties, "parentMessageId")
}

/// Somebody waits for a job; when this goes away, nobody does.
struct Guard<'a> {
    step: &'a Step,
    number: u64,
    gathering: Gathering,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.step.change(|board| board.abandon(self.number));
        // If somebody is adding to it, it ends with the job.
        if let Ok(mut gathered) = self.gathering.try_lock() {
            gathered.take();
        }
    }
}
