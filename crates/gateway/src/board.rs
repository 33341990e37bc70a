//! Who is there and who has what: a step's workers, their consumers, the messages that wait and
//! those that are held. Decides who gets the next message. Neither I/O nor waiting.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use flowline_model::{Fault, MessageId};
use flowline_sdk::{Place, Presence};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot},
    time::Instant,
};

use crate::{
    amqp::{Content, Verdict},
    gathered::Gathered,
};

/// Deliveries that ended and are remembered, to tell what comes late from what is wrong.
const MOST_ENDED: usize = 10_000;

/// What a delivery gathers; nothing any more once it was taken.
pub(crate) type Gathering = Arc<Mutex<Option<Gathered>>>;

/// A message on its way to a consumer.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) number: u64,
    pub(crate) channel: u16,
    pub(crate) tag: String,
    pub(crate) content: Content,
}

/// How a delivery ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Settled(Verdict),
    Lost(Fault),
}

/// One run of a message, from when it waits for a worker until it ends.
pub(crate) struct Job {
    pub(crate) id: MessageId,
    pub(crate) place: Arc<Place>,
    pub(crate) gathered: Gathering,
    /// Told when the worker reports an error.
    failed: Arc<Notify>,
    /// None once nobody waits for its end any more.
    pub(crate) done: Option<oneshot::Sender<Ended>>,
    held: Option<Held>,
}

struct Held {
    worker: String,
    /// None once its connection or channel is gone.
    consumer: Option<u64>,
    since: Instant,
    /// The worker is through with it; only something that comes late is waited for.
    is_over: bool,
}

struct Worker {
    connections: usize,
    holding: u32,
    heard: Instant,
}

/// Somebody who takes messages on one channel.
pub(crate) struct Consumer {
    pub(crate) worker: String,
    pub(crate) channel: u16,
    pub(crate) tag: String,
    pub(crate) credit: u32,
    /// Where messages are sent to; none if it fetches them itself.
    pub(crate) push: Option<mpsc::UnboundedSender<Dispatch>>,
}

struct Seat {
    consumer: Consumer,
    held: u32,
}

/// What became of a search for the delivery that something belongs to.
pub(crate) enum Found {
    Job(Arc<Place>, Gathering),
    /// It ended, or nobody waits for it any more.
    Ended,
    Unknown,
}

/// Who is there and who has what.
pub(crate) struct Board {
    prefetch: u32,
    workers: HashMap<String, Worker>,
    seats: BTreeMap<u64, Seat>,
    waiting: VecDeque<(u64, Content)>,
    jobs: HashMap<u64, Job>,
    ids: HashMap<MessageId, u64>,
    ended: HashSet<MessageId>,
    ended_order: VecDeque<MessageId>,
    next: u64,
    room: usize,
}

impl Board {
    /// Nobody is there; a worker takes `prefetch` messages at the same time.
    pub(crate) fn new(prefetch: u32) -> Self {
        Self {
            prefetch: prefetch.max(1),
            workers: HashMap::new(),
            seats: BTreeMap::new(),
            waiting: VecDeque::new(),
            jobs: HashMap::new(),
            ids: HashMap::new(),
            ended: HashSet::new(),
            ended_order: VecDeque::new(),
            next: 0,
            room: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Begins a job. Its id on the wire is the message's own, unless a delivery with that id is
    /// or was there: what a worker still does for the earlier one must not be taken for this one.
    pub(crate) fn begin(
        &mut self,
        place: Place,
        gathered: Gathered,
        done: oneshot::Sender<Ended>,
    ) -> (u64, MessageId, Gathering) {
        let number = self.number();
        let message = place.message;
        let mut id = message;
        while self.ids.contains_key(&id) || self.ended.contains(&id) {
            id = message.derive(&[b"delivery", &rand::random::<[u8; 16]>()]);
        }
        self.ids.insert(id, number);
        let failed = gathered.failed();
        let gathered = Arc::new(Mutex::new(Some(gathered)));
        let clone = Arc::clone(&gathered);
        let place = Arc::new(place);
        self.jobs.insert(number, Job { id, place, gathered, failed, done: Some(done), held: None });
        (number, id, clone)
    }

    /// Lets a job wait for a worker.
    pub(crate) fn wait(&mut self, number: u64, content: Content) {
        self.waiting.push_back((number, content));
        self.dispatch();
    }

    /// Ends the interest in a job: whoever ran it is gone.
    pub(crate) fn abandon(&mut self, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        job.done = None;
        if job.held.is_some() {
            // The worker is still at it; it has its place until it is done. What it brings is
            // not wanted.
            return;
        }
        self.waiting.retain(|(waiting, _)| *waiting != number);
        self.finish(number);
    }

    pub(crate) fn admit(&mut self, worker: &str, now: Instant) {
        self.workers.insert(worker.to_owned(), Worker { connections: 0, holding: 0, heard: now });
    }

    /// A worker has one more connection; false if it may not.
    pub(crate) fn connect(&mut self, worker: &str, most: usize, now: Instant) -> bool {
        let Some(worker) = self.workers.get_mut(worker) else { return false };
        if worker.connections >= most {
            return false;
        }
        worker.connections += 1;
        worker.heard = now;
        true
    }

    pub(crate) fn disconnect(&mut self, worker: &str) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.connections = worker.connections.saturating_sub(1);
        }
    }

    pub(crate) fn heard(&mut self, worker: &str, now: Instant) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.heard = now;
        }
    }

    /// Takes everything of a worker; gives the jobs that it held.
    pub(crate) fn expel(&mut self, worker: &str) -> Vec<Job> {
        self.workers.remove(worker);
        self.seats.retain(|_, seat| seat.consumer.worker != worker);
        self.room = self.count_room();
        let held = |job: &Job| job.held.as_ref().is_some_and(|held| held.worker == worker);
        let numbers: Vec<u64> = self.jobs.iter().filter(|(_, job)| held(job)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.finish(number)).collect()
    }

    /// A consumer begins.
    pub(crate) fn seat(&mut self, consumer: Consumer) -> u64 {
        let number = self.number();
        self.seats.insert(number, Seat { consumer, held: 0 });
        self.room = self.count_room();
        self.dispatch();
        number
    }

    pub(crate) fn set_credit(&mut self, seat: u64, credit: u32) {
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.consumer.credit = credit;
        }
        self.room = self.count_room();
        self.dispatch();
    }

    /// A consumer ends; what it holds it still holds.
    pub(crate) fn unseat(&mut self, seat: u64) {
        self.seats.remove(&seat);
        self.room = self.count_room();
    }

    /// Hands out what waits, to whoever has the least to do.
    fn dispatch(&mut self) {
        while !self.waiting.is_empty() {
            let Some(number) = self.least_busy() else { return };
            let Some((job, content)) = self.waiting.pop_front() else { return };
            let Some(seat) = self.seats.get(&number) else { return };
            let (channel, tag) = (seat.consumer.channel, seat.consumer.tag.clone());
            let Some(push) = seat.consumer.push.clone() else { return };
            self.hold(job, number);
            if let Err(mpsc::error::SendError(dispatch)) = push.send(Dispatch { number: job, channel, tag, content }) {
                // Its connection is ending and has not said so yet.
                self.unseat(number);
                self.release(job);
                self.waiting.push_front((job, dispatch.content));
            }
        }
    }

    fn least_busy(&self) -> Option<u64> {
        let free = self.seats.iter().filter(|(_, seat)| seat.consumer.push.is_some() && self.has_room(seat));
        let least = free.min_by_key(|(_, seat)| {
            let holding = self.workers.get(&seat.consumer.worker).map_or(0, |worker| worker.holding);
            (holding, seat.held)
        });
        least.map(|(number, _)| *number)
    }

    fn has_room(&self, seat: &Seat) -> bool {
        let worker = self.workers.get(&seat.consumer.worker);
        seat.held < seat.consumer.credit && worker.is_some_and(|worker| worker.holding < self.prefetch)
    }

    /// Gives a waiting message to a consumer that asks for it.
    pub(crate) fn fetch(&mut self, seat: u64) -> Option<Dispatch> {
        let place = self.seats.get(&seat).filter(|seat| self.has_room(seat))?;
        let (channel, tag) = (place.consumer.channel, place.consumer.tag.clone());
        let (number, content) = self.waiting.pop_front()?;
        self.hold(number, seat);
        Some(Dispatch { number, channel, tag, content })
    }

    /// Takes back a message that could not be sent.
    pub(crate) fn take_back(&mut self, dispatch: Dispatch) {
        let Some(job) = self.jobs.get(&dispatch.number) else { return };
        if job.done.is_none() {
            self.finish(dispatch.number);
            return;
        }
        self.release(dispatch.number);
        self.waiting.push_front((dispatch.number, dispatch.content));
        self.dispatch();
    }

    fn hold(&mut self, job: u64, number: u64) {
        let Some(seat) = self.seats.get_mut(&number) else { return };
        seat.held += 1;
        let worker = seat.consumer.worker.clone();
        let now = Instant::now();
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.holding += 1;
            worker.heard = now;
        }
        if let Some(job) = self.jobs.get_mut(&job) {
            job.held = Some(Held { worker, consumer: Some(number), since: now, is_over: false });
        }
    }

    fn release(&mut self, job: u64) {
        let Some(held) = self.jobs.get_mut(&job).and_then(|job| job.held.take()) else { return };
        if held.is_over {
            return;
        }
        if let Some(worker) = self.workers.get_mut(&held.worker) {
            worker.holding = worker.holding.saturating_sub(1);
        }
        if let Some(seat) = held.consumer.and_then(|number| self.seats.get_mut(&number)) {
            seat.held = seat.held.saturating_sub(1);
        }
    }

    /// The worker is through with a job, but something of it may still come. Gives the means to
    /// wait for that.
    pub(crate) fn let_go(&mut self, number: u64) -> Option<Arc<Notify>> {
        let job = self.jobs.get(&number)?;
        let failed = Arc::clone(&job.failed);
        let held = job.held.as_ref()?;
        let over = Held { worker: held.worker.clone(), consumer: None, since: held.since, is_over: true };
        self.release(number);
        self.jobs.get_mut(&number)?.held = Some(over);
        self.dispatch();
        Some(failed)
    }

    /// Ends a job.
    pub(crate) fn finish(&mut self, number: u64) -> Option<Job> {
        self.release(number);
        let job = self.jobs.remove(&number)?;
        self.ids.remove(&job.id);
        self.ended.insert(job.id);
        self.ended_order.push_back(job.id);
        if self.ended_order.len() > MOST_ENDED
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.dispatch();
        Some(job)
    }

    /// The connection or channel is gone on which these were delivered.
    pub(crate) fn orphan(&mut self, numbers: &[u64]) {
        for number in numbers {
            let Some(held) = self.jobs.get_mut(number).and_then(|job| job.held.as_mut()) else { continue };
            if let Some(seat) = held.consumer.take().and_then(|seat| self.seats.get_mut(&seat)) {
                seat.held = seat.held.saturating_sub(1);
            }
        }
    }

    /// The delivery with this id, if this worker holds it.
    pub(crate) fn find(&self, worker: &str, id: &str) -> Found {
        let Ok(id) = id.parse::<MessageId>() else { return Found::Unknown };
        let Some(job) = self.ids.get(&id).and_then(|number| self.jobs.get(number)) else {
            return if self.ended.contains(&id) { Found::Ended } else { Found::Unknown };
        };
        if job.held.as_ref().is_none_or(|held| held.worker != worker) {
            return Found::Unknown;
        }
        if job.done.is_none() {
            return Found::Ended;
        }
        Found::Job(Arc::clone(&job.place), Arc::clone(&job.gathered))
    }

    /// How many messages all workers that are there take at the same time.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    fn count_room(&self) -> usize {
        let mut credit: HashMap<&str, u32> = HashMap::new();
        for seat in self.seats.values() {
            let sum = credit.entry(&seat.consumer.worker).or_default();
            *sum = sum.saturating_add(seat.consumer.credit);
        }
        credit.values().map(|credit| (*credit).min(self.prefetch) as usize).sum()
    }

    pub(crate) fn presence(&self, name: &str) -> Option<Presence> {
        let worker = self.workers.get(name)?;
        let held: Vec<Instant> = self
            .jobs
            .values()
            .filter_map(|job| job.held.as_ref())
            .filter(|held| held.worker == name && !held.is_over)
            .map(|held| held.since)
            .collect();
        Some(Presence {
            connected: worker.connections > 0,
            consuming: self.seats.values().any(|seat| seat.consumer.worker == name && seat.consumer.credit > 0),
            holding: held.len(),
            holding_since: held.into_iter().min(),
            heard: worker.heard,
        })
    }
}

#[cfg(test)]
mod tests {
    use flowline_model::Timestamp;
    use flowline_sdk::testing::TestHost;

    use super::*;
    use crate::gathered::Gauge;

    struct Line {
        inbox: mpsc::UnboundedReceiver<Dispatch>,
        seat: u64,
    }

    fn consumer(board: &mut Board, worker: &str, credit: u32) -> Line {
        if board.presence(worker).is_none() {
            board.admit(worker, Instant::now());
        }
        let (push, inbox) = mpsc::unbounded_channel();
        let consumer = Consumer { worker: worker.into(), channel: 1, tag: "c".into(), credit, push: Some(push) };
        Line { inbox, seat: board.seat(consumer) }
    }

    fn content() -> Content {
        Content { key: String::new(), redelivered: false, properties: Default::default(), body: Default::default() }
    }

    fn begin(board: &mut Board, place: &Place) -> (u64, MessageId, oneshot::Receiver<Ended>) {
        let (done, ended) = oneshot::channel();
        let (number, id, _) = board.begin(place.clone(), Gathered::new(Gauge::default(), (1, 1)), done);
        board.wait(number, content());
        (number, id, ended)
    }

    fn place(number: u8) -> Place {
        let host = TestHost::new();
        let mut message = host.message(0);
        message.id = MessageId::root(Timestamp::from_millis(number.into()), [number; 10]);
        host.context(&message).place().clone()
    }

    #[test]
    fn messages_wait_for_room_and_go_to_whoever_has_less_to_do() {
        let mut board = Board::new(2);
        let jobs: Vec<_> = (0..5).map(|number| begin(&mut board, &place(number))).collect();
        assert_eq!(board.room(), 0);
        let mut a = consumer(&mut board, "a", 10);
        assert_eq!(board.room(), 2);
        let mut b = consumer(&mut board, "b", 1);
        assert_eq!(board.room(), 3);
        let first = a.inbox.try_recv().unwrap().number;
        assert_eq!((first, a.inbox.try_recv().is_ok(), a.inbox.try_recv().is_ok()), (jobs[0].0, true, false));
        assert_eq!((b.inbox.try_recv().is_ok(), b.inbox.try_recv().is_ok()), (true, false));
        assert_eq!(board.presence("a").unwrap().holding, 2);
        board.finish(first);
        assert_eq!(a.inbox.try_recv().unwrap().number, jobs[3].0);
        board.unseat(a.seat);
        assert_eq!(board.room(), 1);
        assert_eq!(board.expel("b").len(), 1);
        assert_eq!((board.room(), board.presence("b").is_none()), (0, true));
    }

    #[test]
    fn an_id_is_never_used_for_two_deliveries() {
        let mut board = Board::new(1);
        let mut line = consumer(&mut board, "a", 1);
        let (number, id, _ended) = begin(&mut board, &place(1));
        assert_eq!(id, place(1).message);
        assert!(matches!(board.find("a", &id.to_string()), Found::Job(..)));
        assert!(matches!(board.find("b", &id.to_string()), Found::Unknown));
        line.inbox.try_recv().unwrap();
        board.finish(number);
        assert!(matches!(board.find("a", &id.to_string()), Found::Ended));
        let (_, second, _ended) = begin(&mut board, &place(1));
        assert_ne!(second, id);
    }

    #[test]
    fn a_job_that_nobody_waits_for_keeps_its_place_until_the_worker_is_done() {
        let mut board = Board::new(1);
        let mut line = consumer(&mut board, "a", 1);
        let (number, id, _ended) = begin(&mut board, &place(1));
        let (waiting, _, _ended) = begin(&mut board, &place(2));
        line.inbox.try_recv().unwrap();
        board.abandon(number);
        assert!(matches!(board.find("a", &id.to_string()), Found::Ended));
        assert_eq!(board.presence("a").unwrap().holding, 1);
        board.abandon(waiting);
        board.finish(number);
        assert!(line.inbox.try_recv().is_err());
        assert_eq!(board.presence("a").unwrap().holding, 0);
    }
}
