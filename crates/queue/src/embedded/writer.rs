//! The writer thread: takes what is pending, applies it in one transaction, commits, answers.
//!
//! It is the only one that writes, so a commit carries as many commands as came while the one
//! before was flushed. It never answers before the commit has returned.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    Shared,
    batch::{Batch, Failure, Numbers},
    command::{Answer, Command, Ended, Order, Work},
    heads::Head,
    history::give_back_pages,
    mark::CommitMark,
    schema::explain,
};
use crate::QueueError;

/// At most so many commands in one commit.
const COMMANDS_PER_COMMIT: usize = 1_024;
/// About so many bytes in one commit.
const BYTES_PER_COMMIT: usize = 8 << 20;
/// After a failure, what happens by itself is tried again this much later.
pub(crate) const PAUSE_AFTER_FAILURE_MS: i64 = 1_000;

/// A commit that carries so many commands waits for others to share it.
const BUSY: usize = 8;
/// How long it waits at most: about as long as a commit takes.
const LONGEST_LINGER: Duration = Duration::from_millis(1);
/// How often it looks whether they are there.
const LINGER: Duration = Duration::from_micros(100);

/// Hears that messages were read into memory.
type Answered = oneshot::Sender<Result<(), QueueError>>;

/// What the writer thread owns.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    pub(crate) orders: Receiver<Order>,
    pub(crate) numbers: Numbers,
    pub(crate) mark: CommitMark,
    /// Long work that goes on chunk by chunk, the next in line first.
    pub(crate) unfinished: VecDeque<Command>,
    /// How many commands the last commit carried.
    pub(crate) carried: usize,
}

/// What one turn takes from the channel.
#[derive(Default)]
struct Turn {
    commands: Vec<Command>,
    /// What the commands put into a commit.
    bytes: usize,
    reads: Vec<(Arc<Head>, Option<Answered>)>,
    close: bool,
}

impl Writer {
    /// Works until the store is closed or nobody can ask for anything any more.
    pub(crate) fn run(mut self) {
        loop {
            let mut turn = self.gather();
            let now = self.now();
            if now >= self.shared.alarm() {
                self.collect_expired(now, &mut turn.commands);
            }
            turn.commands.extend(self.unfinished.pop_front());
            self.carried = turn.commands.len();
            if !turn.commands.is_empty() {
                self.write(turn.commands);
            }
            for (head, reply) in turn.reads {
                let read = self.read_window(&head);
                drop(reply.map(|reply| reply.send(read)));
            }
            self.set_alarm();
            if turn.close {
                return self.finish();
            }
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.shared.now()
    }

    /// Waits for orders and takes all that are there, within the bounds of one commit.
    fn gather(&mut self) -> Turn {
        let mut turn = Turn::default();
        match self.orders.recv_timeout(self.pause()) {
            Ok(order) => turn.take(order),
            Err(RecvTimeoutError::Timeout) => return turn,
            Err(RecvTimeoutError::Disconnected) => turn.close = true,
        }
        turn.take_all(&self.orders);
        self.linger(&mut turn);
        turn
    }

    /// Waits a moment for as many commands as the last commit carried: whoever it answered is
    /// about to ask for the next thing, and all of them together cost one flush and one write of
    /// each page they share. Few commands wait for nobody.
    fn linger(&self, turn: &mut Turn) {
        let end = Instant::now() + LONGEST_LINGER;
        let more = |turn: &Turn| turn.commands.len() < self.carried && turn.may_wait();
        while self.carried >= BUSY && self.unfinished.is_empty() && more(turn) && Instant::now() < end {
            std::thread::sleep(LINGER);
            turn.take_all(&self.orders);
        }
    }

    fn pause(&self) -> Duration {
        if !self.unfinished.is_empty() {
            return Duration::ZERO;
        }
        let until_alarm = self.shared.alarm().saturating_sub(self.now()).max(0).unsigned_abs();
        Duration::from_millis(until_alarm).min(self.shared.longest_sleep)
    }

    fn write(&mut self, mut commands: Vec<Command>) {
        let answers = self.commit(&mut commands);
        if commands.iter().any(|command| matches!(command.work, Work::Forget(_))) {
            self.give_back_pages();
        }
        for (command, answer) in commands.into_iter().zip(answers) {
            if matches!(answer, Ok(Answer::More)) {
                self.unfinished.push_back(command);
            } else if let Some(reply) = command.reply {
                // Its place before the writer is free again. The caller may have gone away; what
                // it asked for is done all the same.
                drop(command.permit);
                drop(reply.send(answer));
            }
        }
    }

    /// Commits the commands as one transaction. When the store refuses something that is not the
    /// disk's fault, each command is tried alone, so that one never spoils the others.
    fn commit(&mut self, commands: &mut [Command]) -> Vec<Result<Answer, QueueError>> {
        let error = match self.attempt(commands) {
            Ok(answers) => return answers,
            Err(error) => explain(&self.path, &error),
        };
        self.recover(&error);
        if commands.len() > 1 && !matches!(error, QueueError::Disk(_)) {
            return commands.iter_mut().flat_map(|command| self.commit(std::slice::from_mut(command))).collect();
        }
        let retry_at = self.now().saturating_add(PAUSE_AFTER_FAILURE_MS);
        commands.iter_mut().for_each(|command| command.work.abandon(retry_at));
        self.shared.wake_by(i64::MIN);
        vec![Err(error); commands.len()]
    }

    fn attempt(&mut self, commands: &mut [Command]) -> rusqlite::Result<Vec<Result<Answer, QueueError>>> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut batch = Batch::new(&self.connection, &self.shared.heads, self.shared.now(), self.numbers);
        batch.numbers.commit += 1;
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands.iter_mut() {
            match batch.apply(&mut command.work) {
                Ok(answer) => answers.push(Ok(answer)),
                Err(Failure::Refused(error)) => answers.push(Err(error)),
                Err(Failure::Store(error)) => return Err(error),
            }
        }
        batch.write_tallies()?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        if batch.is_numbered() {
            self.numbers = batch.numbers;
            self.mark.committed(self.numbers.commit);
        } else {
            self.numbers = Numbers { commit: self.numbers.commit, ..batch.numbers };
        }
        let aftermath = batch.publish_effects();
        self.shared.wake_by(aftermath.alarm);
        if !aftermath.ended.is_empty() {
            self.shared.leases.ended(&aftermath.ended);
        }
        self.shared.counters.committed(commands.len());
        Ok(answers)
    }

    fn give_back_pages(&self) {
        if let Err(error) = give_back_pages(&self.connection) {
            tracing::warn!(%error, "free pages could not be given back to the file system");
        }
    }

    /// Undoes what is left of a failed transaction.
    fn recover(&mut self, error: &QueueError) {
        tracing::warn!(%error, "a commit failed; nothing of it was kept");
        self.shared.counters.failed();
        if !self.connection.is_autocommit()
            && let Err(rollback) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(error = %rollback, "a failed commit could not be rolled back");
        }
        self.mark.rolled_back();
    }

    /// Takes the leases whose time is up, to end them with the next commit.
    fn collect_expired(&mut self, now: i64, commands: &mut Vec<Command>) {
        let mut ended = Vec::new();
        for head in self.shared.heads.all() {
            let mut state = head.state();
            if state.earliest_expiry <= now {
                ended.extend(state.take_expired(now).into_iter().map(|(token, leased)| Ended {
                    head: head.clone(),
                    token,
                    leased,
                }));
            }
            drop(state);
            self.ripen(&head, now);
        }
        if !ended.is_empty() {
            commands.push(Command { work: Work::Expire(ended), reply: None, permit: None });
        }
    }

    /// Looks when the next thing happens by itself.
    fn set_alarm(&mut self) {
        if self.shared.alarm() > self.now() {
            return;
        }
        // First silent, then lowered: a lease that begins meanwhile is not overlooked.
        self.shared.silence_alarm();
        let heads = self.shared.heads.all();
        let next = heads.iter().map(|head| head.state().alarm()).min().unwrap_or(i64::MAX);
        self.shared.wake_by(next);
    }

    /// Leaves the store tidy: everything in the main file, nothing to recover.
    fn finish(mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Write(mut command) => {
                    command.work.abandon(i64::MAX);
                    drop(command.reply.map(|reply| reply.send(Err(QueueError::Closed))));
                }
                Order::Read { .. } | Order::Wake | Order::Close => {}
            }
        }
        for command in self.unfinished.drain(..) {
            drop(command.reply.map(|reply| reply.send(Err(QueueError::Closed))));
        }
        self.mark.close();
        self.shared.leases.close();
        if let Err(error) = super::schema::close_writer(self.connection) {
            tracing::warn!(%error, "the write-ahead log was left for the next start");
        }
    }
}

impl Turn {
    fn is_full(&self) -> bool {
        self.commands.len() >= COMMANDS_PER_COMMIT || self.bytes >= BYTES_PER_COMMIT
    }

    /// Whether nobody would rather have it begin at once.
    fn may_wait(&self) -> bool {
        !self.close && !self.is_full() && self.reads.iter().all(|(_, reply)| reply.is_none())
    }

    /// Takes what is there and fits.
    fn take_all(&mut self, orders: &Receiver<Order>) {
        while !self.close && !self.is_full() {
            let Ok(order) = orders.try_recv() else { break };
            self.take(order);
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Write(command) => {
                self.bytes += command.work.weight();
                self.commands.push(command);
            }
            Order::Read { head, reply } => self.reads.push((head, reply)),
            Order::Wake => {}
            Order::Close => self.close = true,
        }
    }
}
