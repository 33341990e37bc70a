//! Random operations against a plain model: the same order, the same counts, nothing lost,
//! nothing doubled, over restarts and kills.

use std::{collections::BTreeMap, time::Duration};

use flowline_model::{Enqueue, Fault, Settlement, Verdict};
use flowline_queue::{
    DeadLetterFilter, Lease, LeaseRequest, Publication, Published, Queue, Replay, conformance::Subject,
};
use proptest::prelude::*;

use crate::steered::{Embedded, declare, message, name, number};

const STEPS: [&str; 2] = ["a", "b"];
const LEASE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Step {
    Publish { queue: usize, group: Option<u8>, delay: Option<u32>, count: u8 },
    Lease { queue: usize, most: usize },
    Settle { which: usize, how: How },
    Pass(u32),
    Restart,
    Kill,
    Discard(usize),
    Bury(usize),
    Replay,
    DiscardDead,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Done,
    DoneAndEmit,
    Continue,
    Retry(u32),
    Release,
    Dead,
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Done),
        2 => Just(How::DoneAndEmit),
        1 => Just(How::Continue),
        3 => (0..100_u32).prop_map(How::Retry),
        2 => Just(How::Release),
        2 => Just(How::Dead),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let group = prop::option::weighted(0.6, 0..3_u8);
    let delay = prop::option::weighted(0.3, 0..120_u32);
    prop_oneof![
        8 => (0..2_usize, group, delay, 1..5_u8)
            .prop_map(|(queue, group, delay, count)| Step::Publish { queue, group, delay, count }),
        8 => (0..2_usize, 1..6_usize).prop_map(|(queue, most)| Step::Lease { queue, most }),
        10 => (0..50_usize, how()).prop_map(|(which, how)| Step::Settle { which, how }),
        4 => (0..70_u32).prop_map(Step::Pass),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        1 => (0..2_usize).prop_map(Step::Discard),
        1 => (0..2_usize).prop_map(Step::Bury),
        2 => Just(Step::Replay),
        1 => Just(Step::DiscardDead),
    ]
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Waiting,
    Held,
    Leased { expires_at: i64 },
    Dead,
}

/// One message as the model knows it; its key is its age.
#[derive(Debug, Clone)]
struct Known {
    number: u64,
    queue: usize,
    group: Option<u8>,
    due: i64,
    attempt: u32,
    place: Place,
}

/// The queues as simply as they can be told.
#[derive(Default)]
struct Model {
    messages: BTreeMap<u64, Known>,
    /// Dead letters in the order they came.
    dead: Vec<u64>,
    next: u64,
}

impl Model {
    fn add(&mut self, queue: usize, group: Option<u8>, due: i64) -> u64 {
        let number = self.next;
        self.next += 1;
        self.messages.insert(number, Known { number, queue, group, due, attempt: 1, place: Place::Dead });
        self.place(number);
        number
    }

    /// Puts a message behind its group, or where it can be delivered.
    fn place(&mut self, key: u64) {
        let known = self.messages[&key].clone();
        let before = |other: &Known| {
            other.queue == known.queue
                && other.group == known.group
                && matches!(other.place, Place::Waiting | Place::Leased { .. })
        };
        let held = known.group.is_some() && self.messages.values().any(before);
        self.set(key, if held { Place::Held } else { Place::Waiting });
    }

    fn set(&mut self, key: u64, place: Place) {
        self.messages.get_mut(&key).unwrap().place = place;
    }

    /// The next of a group follows when the one before has left.
    fn promote(&mut self, queue: usize, group: Option<u8>, now: i64) {
        let next = self.messages.iter_mut().find(|(_, other)| {
            group.is_some() && other.queue == queue && other.group == group && other.place == Place::Held
        });
        if let Some((_, next)) = next {
            next.place = Place::Waiting;
            next.due = if next.due > now { next.due } else { 0 };
        }
    }

    fn leave(&mut self, key: u64, now: i64) -> Known {
        let known = self.messages.remove(&key).unwrap();
        self.promote(known.queue, known.group, now);
        known
    }

    fn deliverable(&self, queue: usize, now: i64) -> Vec<u64> {
        let mut keys: Vec<_> = self
            .messages
            .iter()
            .filter(|(_, known)| known.queue == queue && known.place == Place::Waiting && known.due <= now)
            .map(|(key, known)| (known.due == 0, known.due, *key))
            .collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, _, key)| key).collect()
    }

    fn return_leases(&mut self, ended: impl Fn(i64) -> bool, counts: bool) {
        for known in self.messages.values_mut() {
            if matches!(known.place, Place::Leased { expires_at } if ended(expires_at)) {
                known.place = Place::Waiting;
                known.attempt += u32::from(counts);
            }
        }
    }

    /// Takes all that is ready or delayed on a queue.
    fn waiting(&self, queue: usize) -> Vec<u64> {
        let waits = |known: &Known| known.queue == queue && matches!(known.place, Place::Waiting | Place::Held);
        let held_first = |key: &u64| (self.messages[key].place != Place::Held, self.messages[key].group);
        let mut keys: Vec<u64> = self.messages.iter().filter(|(_, known)| waits(known)).map(|(key, _)| *key).collect();
        // Those behind others of their group go first, then by time and age.
        keys.sort_by_key(|key| match held_first(key) {
            (false, group) => (0, group.map_or(0, i64::from), *key),
            (true, _) => (1, self.messages[key].due, *key),
        });
        keys
    }

    fn counts(&self, queue: usize, now: i64) -> [u64; 4] {
        let count = |is: &dyn Fn(&Known) -> bool| {
            self.messages.values().filter(|known| known.queue == queue && is(known)).count() as u64
        };
        [
            count(&|known| match known.place {
                Place::Waiting => known.due <= now,
                Place::Held => true,
                _ => false,
            }),
            count(&|known| matches!(known.place, Place::Leased { .. })),
            count(&|known| known.place == Place::Waiting && known.due > now),
            count(&|known| known.place == Place::Dead),
        ]
    }
}

/// The store beside its model.
struct Pair {
    embedded: Embedded,
    model: Model,
    leases: Vec<(u64, Lease)>,
}

impl Pair {
    fn now(&self) -> i64 {
        self.embedded.now().as_millis()
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Publish { queue, group, delay, count } => self.publish(*queue, *group, *delay, *count).await,
            Step::Lease { queue, most } => self.lease(*queue, *most).await,
            Step::Settle { which, how } => self.settle(*which, *how).await,
            Step::Pass(seconds) => {
                self.embedded.advance(Duration::from_secs(u64::from(*seconds)));
                let now = self.now();
                self.model.return_leases(|expires_at| expires_at <= now, true);
            }
            Step::Restart => {
                self.embedded.restart().await;
                self.model.return_leases(|_| true, false);
            }
            Step::Kill => {
                self.leases_written_down().await;
                self.embedded.kill();
                self.model.return_leases(|_| true, true);
            }
            Step::Discard(queue) => {
                let keys = self.model.waiting(*queue);
                let count = self.embedded.store().discard(&name(STEPS[*queue])).await.unwrap();
                assert_eq!(count, keys.len() as u64);
                for key in &keys {
                    self.model.messages.remove(key);
                }
            }
            Step::Bury(queue) => self.bury(*queue).await,
            Step::Replay => self.replay().await,
            Step::DiscardDead => {
                let count = self.embedded.store().discard_dead_letters(&DeadLetterFilter::default()).await.unwrap();
                assert_eq!(count, self.model.dead.len() as u64);
                for key in std::mem::take(&mut self.model.dead) {
                    self.model.messages.remove(&key);
                }
            }
        }
        self.compare().await;
    }

    /// Leases are written down beside the caller, a moment later.
    async fn leases_written_down(&self) {
        let leased = |known: &&Known| matches!(known.place, Place::Leased { .. });
        let expected = self.model.messages.values().filter(leased).count();
        for _ in 0..5_000 {
            if self.embedded.leases_on_disk() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{} leases stand in the file, not {expected}", self.embedded.leases_on_disk());
    }

    async fn publish(&mut self, queue: usize, group: Option<u8>, delay: Option<u32>, count: u8) {
        let at = delay.map(|delay| self.embedded.now() + Duration::from_secs(u64::from(delay)));
        let due = at.map_or(0, |at| if at.as_millis() > self.now() { at.as_millis() } else { 0 });
        let messages = (0..count).map(|_| self.enqueue(queue, group, due)).map(|one| Enqueue { ready_at: at, ..one });
        let publication = Publication { messages: messages.collect(), ..Publication::default() };
        assert_eq!(self.embedded.store().publish(publication).await, Ok(Published::Accepted));
    }

    fn enqueue(&mut self, queue: usize, group: Option<u8>, due: i64) -> Enqueue {
        let number = self.model.add(queue, group, due);
        let group = group.map(|group| format!("group {group}"));
        Enqueue { queue: name(STEPS[queue]), group, ..message(number) }
    }

    async fn lease(&mut self, queue: usize, most: usize) {
        let request = LeaseRequest { messages: most, bytes: usize::MAX, duration: LEASE, wait: Duration::ZERO };
        let leases = self.embedded.store().lease(&name(STEPS[queue]), request).await.unwrap();
        let mut expected = self.model.deliverable(queue, self.now());
        expected.truncate(most);
        let found: Vec<_> = leases.iter().map(|lease| (number(lease), lease.delivery.attempt)).collect();
        // A lease may bring fewer than it could: what is in memory goes before what must be read.
        assert_eq!(found.is_empty(), expected.is_empty(), "{expected:?}");
        expected.truncate(found.len());
        let known = |key: &u64| (self.model.messages[key].number, self.model.messages[key].attempt);
        assert_eq!(found, expected.iter().map(known).collect::<Vec<_>>());
        let expires_at = self.now() + i64::try_from(LEASE.as_millis()).unwrap();
        for (key, lease) in expected.into_iter().zip(leases) {
            self.model.set(key, Place::Leased { expires_at });
            self.leases.push((key, lease));
        }
    }

    /// Settles one of all leases there ever were; most of the old ones have ended.
    async fn settle(&mut self, which: usize, how: How) {
        if self.leases.is_empty() {
            return;
        }
        let newest_first = self.leases.len() - 1 - which % self.leases.len();
        let (key, lease) = self.leases[newest_first].clone();
        let current = self.leases.iter().rposition(|(other, _)| *other == key) == Some(newest_first);
        let leased = self.model.messages.get(&key).is_some_and(|known| matches!(known.place, Place::Leased { .. }));
        let mut settlement = Settlement {
            verdict: verdict(how, &self.embedded),
            emits: Vec::new(),
            state: Vec::new(),
            events: Vec::new(),
        };
        let alive = current && leased;
        let now = self.now();
        if !alive {
            let ended = self.embedded.store().settle(&lease, settlement).await;
            assert!(ended.is_err(), "{key} was settled twice");
            return;
        }
        if matches!(how, How::DoneAndEmit | How::Continue) {
            let known = self.model.messages[&key].clone();
            settlement.emits.push(self.enqueue(1 - known.queue, known.group, 0));
        }
        assert_eq!(self.embedded.store().settle(&lease, settlement).await, Ok(()));
        match how {
            How::Done | How::DoneAndEmit => drop(self.model.leave(key, now)),
            How::Continue => return,
            How::Release => self.model.set(key, Place::Waiting),
            How::Retry(seconds) => {
                let known = self.model.messages.get_mut(&key).unwrap();
                known.due = now + i64::from(seconds) * 1_000;
                known.attempt += 1;
                known.place = Place::Waiting;
            }
            How::Dead => {
                let known = self.model.leave(key, now);
                self.model.messages.insert(key, Known { place: Place::Dead, ..known });
                self.model.dead.push(key);
            }
        }
        self.leases.remove(newest_first);
    }

    async fn bury(&mut self, queue: usize) {
        let keys = self.model.waiting(queue);
        let fault = Fault::reject("gone", "The step is gone.");
        let count = self.embedded.store().dead_letter_all(&name(STEPS[queue]), fault).await.unwrap();
        assert_eq!(count, keys.len() as u64);
        for key in keys {
            self.model.set(key, Place::Dead);
            self.model.dead.push(key);
        }
    }

    async fn replay(&mut self) {
        let count = self.embedded.store().replay(&DeadLetterFilter::default(), &Replay::default()).await.unwrap();
        assert_eq!(count, self.model.dead.len() as u64);
        for key in std::mem::take(&mut self.model.dead) {
            let known = self.model.messages.get_mut(&key).unwrap();
            (known.due, known.attempt) = (0, 1);
            self.model.place(key);
        }
    }

    /// The store sees the time a few milliseconds later; then the counts are the same.
    async fn compare(&self) {
        let mut found = Vec::new();
        let expected: Vec<_> = (0..2).map(|queue| self.model.counts(queue, self.now())).collect();
        for _ in 0..1_000 {
            let depths = self.embedded.store().depths().await.unwrap();
            found = depths.iter().map(|depth| [depth.ready, depth.leased, depth.delayed, depth.dead]).collect();
            if found == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(found, expected, "ready, leased, delayed, dead");
    }

    /// In the end everything can be delivered and taken off, in order.
    async fn drain(mut self) {
        self.take(&Step::Pass(100_000)).await;
        // Every lease has ended by now; what they held waits again.
        self.leases.clear();
        while self.model.messages.values().any(|known| known.place != Place::Dead) {
            for queue in 0..2 {
                self.lease(queue, 5).await;
                for held in (0..self.leases.len()).rev() {
                    self.settle(0, How::Done).await;
                    assert_eq!(self.leases.len(), held, "what was just leased can be settled");
                }
            }
        }
        self.compare().await;
        self.embedded.store().close().await;
        let report = flowline_queue::embedded::doctor(&self.embedded.folder(), false).unwrap();
        assert!(report.is_healthy(), "{report:?}");
        let dead = self.model.messages.len() as u64;
        assert_eq!(
            report
                .queues
                .iter()
                .map(|queue| [queue.waiting, queue.dead])
                .fold([0, 0], |sum, queue| { [sum[0] + queue[0], sum[1] + queue[1]] }),
            [0, dead]
        );
    }
}

fn verdict(how: How, embedded: &Embedded) -> Verdict {
    match how {
        How::Done | How::DoneAndEmit => Verdict::Done,
        How::Continue => Verdict::Continue,
        How::Release => Verdict::Release,
        How::Retry(seconds) => Verdict::Retry { at: embedded.now() + Duration::from_secs(u64::from(seconds)) },
        How::Dead => Verdict::DeadLetter { fault: Fault::reject("broken", "It is broken.") },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_its_model_does(steps in prop::collection::vec(step(), 1..70)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair { embedded: Embedded::new(), model: Model::default(), leases: Vec::new() };
            declare(pair.embedded.store(), &STEPS).await;
            for step in &steps {
                pair.take(step).await;
            }
            pair.drain().await;
        });
    }
}
