//! Tending: makes the workers that a step has equal to those it should have.
//!
//! It starts and stops them one by one, replaces what crashed, went deaf or holds a message for
//! too long, and tells how they stand.

mod health;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flowline_model::StepPlan;
use flowline_queue::QueueDepth;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Crew, Trouble,
    backoff::Backoff,
    hand::{Hand, News},
    scale::{Look, wanted},
};
use crate::{WorkerTrouble, WorkersStatus, gate::Passage};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(250);
/// A worker that took messages was at work if there were some so lately.
const AT_WORK: Duration = Duration::from_secs(2);
/// How long after its grace a worker may take to be cleared away.
const CLEARING: Duration = Duration::from_secs(10);
/// How much may happen between two looks.
const NEWS: usize = 64;

/// Keeps the workers of one crew.
pub(super) struct Tender {
    crew: Arc<Crew>,
    /// The step as it was at the last look.
    plan: Arc<StepPlan>,
    hands: BTreeMap<String, Hand>,
    backoff: Backoff,
    trouble: Option<WorkerTrouble>,
    wanted: u32,
    wanted_since: Instant,
    busy: Instant,
    /// How many losses are known.
    losses: u64,
    tell: mpsc::Sender<(String, News)>,
    news: mpsc::Receiver<(String, News)>,
    room: watch::Receiver<usize>,
}

impl Tender {
    pub(super) fn new(crew: Arc<Crew>) -> Self {
        let (tell, news) = mpsc::channel(NEWS);
        let now = Instant::now();
        Self {
            hands: BTreeMap::new(),
            backoff: Backoff::default(),
            trouble: None,
            wanted: crew.plan().workers.min,
            plan: crew.plan(),
            wanted_since: now,
            busy: now,
            losses: crew.shared.workforces.losses(&crew.plan().queue),
            room: crew.place.remote().room(),
            crew,
            tell,
            news,
        }
    }

    /// Tends until it is stopped; then lets every worker go.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.scale().await;
            self.watch();
            self.fill();
            self.show();
            tokio::select! {
                Some((worker, news)) = self.news.recv() => self.hear(&worker, news),
                () = tokio::time::sleep(LOOK) => {}
                // Somebody has come, or gone: to be seen at once.
                Ok(()) = self.room.changed() => {}
                () = stop.cancelled() => break,
            }
            while let Ok((worker, news)) = self.news.try_recv() {
                self.hear(&worker, news);
            }
        }
        self.let_go().await;
    }

    /// How many workers the step should have.
    async fn scale(&mut self) {
        self.plan = self.crew.plan();
        let depth = self.crew.shared.queue.depth(&self.plan.queue).await.ok().flatten();
        let now = Instant::now();
        let look = self.look(depth.as_ref(), now);
        if look.ready + look.leased > 0 {
            self.busy = now;
        }
        let wanted = wanted(&Look { idle: now.duration_since(self.busy), ..look });
        if wanted != self.wanted {
            let (from, queue) = (self.wanted, &self.plan.queue);
            tracing::debug!(%queue, from, to = wanted, "the step gets another number of workers");
            self.wanted = wanted;
            self.wanted_since = now;
        }
    }

    fn look(&self, depth: Option<&QueueDepth>, now: Instant) -> Look {
        let Crew { shared, runtime, .. } = &*self.crew;
        let plan = &self.plan;
        // A poll is never two at a time.
        let most = if plan.schedule.is_some() { 1 } else { u32::MAX };
        let ready = depth.map_or(0, |depth| depth.ready);
        let ready = match shared.gate(&plan.queue).passage() {
            Passage::Free => ready,
            Passage::Probe | Passage::Wait(_) => ready.min(1),
            Passage::Closed => 0,
        };
        Look {
            min: plan.workers.min.min(most),
            max: plan.workers.max.get().min(most),
            prefetch: plan.prefetch_in(*runtime).get(),
            ready,
            leased: depth.map_or(0, |depth| depth.leased),
            oldest: depth.and_then(|depth| depth.oldest).map_or(Duration::ZERO, |oldest| shared.now().since(oldest)),
            current: self.wanted,
            unchanged: now.duration_since(self.wanted_since),
            idle: Duration::ZERO,
            fewer_after: shared.settings.docker.fewer_after,
            none_after: shared.settings.docker.none_after,
        }
    }

    /// Starts and stops workers until there are as many as there should be.
    fn fill(&mut self) {
        let staying = self.hands.values().filter(|hand| !hand.is_leaving()).count();
        let wanted = usize::try_from(self.wanted).unwrap_or(usize::MAX);
        if staying > wanted {
            self.thin_out(staying - wanted);
            return;
        }
        let now = Instant::now();
        if staying == wanted || self.backoff.next(now).is_some() {
            return;
        }
        let unproven = self.hands.values().any(|hand| !hand.is_leaving() && hand.takes.is_none());
        let count = match self.backoff.failures() {
            0 => wanted - staying,
            // Where one fails, others would too: one at a time.
            _ if self.backoff.is_loop() && unproven => 0,
            _ => 1,
        };
        for _ in 0..count {
            let worker = self.crew.place.name();
            let grace = self.crew.shared.settings.docker.grace;
            let hand = Hand::start(Arc::clone(&self.crew.place), worker.clone(), grace, self.tell.clone());
            self.hands.insert(worker, hand);
        }
    }

    /// Lets some go: first those that do the least.
    fn thin_out(&mut self, count: usize) {
        let holding = |worker: &str| self.crew.place.presence(worker).map_or(0, |presence| presence.holding);
        let mut staying: Vec<(bool, usize, &String)> = self
            .hands
            .iter()
            .filter(|(_, hand)| !hand.is_leaving())
            .map(|(worker, hand)| (hand.takes.is_some(), holding(worker), worker))
            .collect();
        staying.sort();
        for (_, _, worker) in staying.into_iter().take(count) {
            self.hands[worker].stop.cancel();
        }
    }

    fn hear(&mut self, worker: &str, news: News) {
        match news {
            News::Up => {
                if let Some(hand) = self.hands.get_mut(worker) {
                    hand.up = Some(Instant::now());
                    hand.took = Instant::now();
                }
                return;
            }
            News::Failed(trouble) => self.not_started(worker, &trouble),
            News::Ended(ending) => self.failed(worker, &ending.text),
            News::Stopped => {}
        }
        self.hands.remove(worker);
    }

    fn not_started(&mut self, worker: &str, trouble: &Trouble) {
        if !trouble.is_unreachable {
            self.failed(worker, &trouble.text);
            return;
        }
        let known = self.trouble.as_ref().is_some_and(|known| known.message == trouble.text);
        if !known {
            tracing::warn!(queue = %self.plan.queue, "{}; trying again", trouble.text);
        }
        self.backoff.unreachable(Instant::now());
        self.note(&trouble.text);
    }

    /// A worker failed: told in the log as long as it is news, and always in the status.
    fn failed(&mut self, worker: &str, text: &str) {
        let now = Instant::now();
        let took = self.hands.get(worker).is_some_and(|hand| hand.takes.is_some());
        let at_work = self.has_lost() || (took && now.duration_since(self.busy) < AT_WORK);
        self.backoff.failed(now, at_work);
        self.note(text);
        if self.backoff.is_news() {
            let (queue, failures) = (&self.plan.queue, self.backoff.failures());
            tracing::warn!(%queue, worker, failures, "a worker failed: {text}");
        }
    }

    fn note(&mut self, text: &str) {
        let secrets = &self.crew.shared.settings.secrets;
        self.trouble = Some(WorkerTrouble {
            message: secrets.scrub(text.to_owned()),
            at: self.crew.shared.now(),
            failures: 0,
            next_start: None,
        });
    }

    /// Tells how the workers stand.
    fn show(&self) {
        let running = self.hands.values().filter(|hand| hand.takes.is_some() && !hand.is_leaving()).count();
        let now = Instant::now();
        let wait = self.backoff.next(now).map(|next| next.duration_since(now));
        let shared = &self.crew.shared;
        let status = WorkersStatus {
            running: u32::try_from(running).unwrap_or(u32::MAX),
            wanted: self.wanted,
            trouble: self.trouble.clone().map(|trouble| WorkerTrouble {
                failures: self.backoff.failures(),
                next_start: wait.map(|wait| shared.now() + wait),
                ..trouble
            }),
        };
        shared.workforces.put(&self.plan.queue, self.crew.number, status);
        let ready = running > 0 || self.wanted == 0;
        if self.crew.ready.swap(ready, Ordering::Relaxed) != ready {
            shared.changed.notify_one();
        }
    }

    /// Lets every worker finish what it has, and kills those that do not within their grace.
    async fn let_go(&mut self) {
        self.hands.values().for_each(|hand| hand.stop.cancel());
        self.until_gone(self.crew.shared.settings.docker.grace + CLEARING).await;
        self.hands.values().for_each(|hand| hand.kill.cancel());
        self.until_gone(CLEARING).await;
    }

    async fn until_gone(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.hands.is_empty() {
            match tokio::time::timeout_at(end, self.news.recv()).await {
                Ok(Some((_, News::Up))) => {}
                Ok(Some((worker, _))) => drop(self.hands.remove(&worker)),
                Ok(None) | Err(_) => return,
            }
        }
    }
}
