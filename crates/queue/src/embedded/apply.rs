//! What publishing, settling and the end of a lease write: each is one part of one commit.
//!
//! A refusal comes before the first row is written, so that it never spoils the other commands
//! of the same commit.

use std::sync::Arc;

use flowline_model::{MessageId, Verdict};
use rusqlite::{OptionalExtension, params};

use super::{
    batch::{Batch, Failure, signed},
    codec::Incoming,
    command::{Answer, Ended, Publish, Settle, Work, last_word},
    heads::{Head, Tally},
    lane::Row,
};
use crate::{Once, Published, QueueError};

/// At most so many expired keys are removed for each new one.
const FORGET_KEYS: i64 = 16;

impl Batch<'_> {
    /// Applies one command.
    pub(crate) fn apply(&mut self, work: &mut Work) -> Result<Answer, Failure> {
        match work {
            Work::Declare(queues) => {
                for queue in queues {
                    self.declare(&queue.name, queue.limits)?;
                }
                Ok(Answer::Done)
            }
            Work::Publish(publish) => self.publish(publish),
            Work::Settle(settle) => Ok(self.settle(settle)?),
            Work::Expire(ended) => Ok(self.expire(ended)?),
            Work::Forget(retention) => Ok(self.forget(retention)?),
            Work::Job(job) => Ok(job.run_chunk(self)?),
        }
    }

    fn publish(&mut self, publish: &mut Publish) -> Result<Answer, Failure> {
        if let Some(once) = &publish.once
            && let Some(first) = self.accepted_before(once)?
        {
            return Ok(Answer::Published(Published::Duplicate { first }));
        }
        let targets = self.check_limits(&publish.messages).map_err(Failure::Refused)?;
        for write in &publish.state {
            self.find(&write.queue).ok_or_else(|| Failure::Refused(QueueError::Unknown(write.queue.clone())))?;
        }
        if let Some(once) = &publish.once {
            self.remember_key(once)?;
        }
        for (head, message) in targets.iter().zip(&mut publish.messages) {
            self.enqueue(head, message)?;
        }
        for write in &publish.state {
            self.remember(write)?;
        }
        for event in &publish.events {
            self.tell(event, None)?;
        }
        Ok(Answer::Published(Published::Accepted))
    }

    /// The queues of the messages, if each of them can take all that is meant for it.
    fn check_limits(&self, messages: &[Incoming]) -> Result<Vec<Arc<Head>>, QueueError> {
        let mut totals: Vec<(Arc<Head>, i64, i64)> = Vec::new();
        let mut targets = Vec::with_capacity(messages.len());
        for message in messages {
            let head = self.find(&message.queue).ok_or_else(|| QueueError::Unknown(message.queue.clone()))?;
            let size = signed(message.payload.len() as u64);
            match totals.iter_mut().find(|(known, ..)| known.id == head.id) {
                Some((_, count, bytes)) => (*count, *bytes) = (*count + 1, *bytes + size),
                None => totals.push((head.clone(), 1, size)),
            }
            targets.push(head);
        }
        for (head, count, bytes) in totals {
            let reached = head.state().limit_reached(self.pending(&head), count, bytes);
            if let Some(limit) = reached {
                return Err(QueueError::Full { queue: head.name.clone(), limit });
            }
        }
        Ok(targets)
    }

    fn accepted_before(&self, once: &Once) -> Result<Option<MessageId>, Failure> {
        let Some(head) = self.find(&once.queue) else { return Ok(None) };
        let first = self
            .connection
            .prepare_cached("SELECT message FROM once WHERE queue = ?1 AND key = ?2 AND forget_at > ?3")?
            .query_row(params![head.id, once.key, self.now], |row| row.get::<_, [u8; 16]>(0))
            .optional()?;
        Ok(first.map(MessageId::from_bytes))
    }

    fn remember_key(&mut self, once: &Once) -> rusqlite::Result<()> {
        let head = self.find_or_create(&once.queue)?;
        let millis = i64::try_from(once.remember.as_millis()).unwrap_or(i64::MAX);
        self.connection
            .prepare_cached(
                "DELETE FROM once WHERE (queue, key) IN
                 (SELECT queue, key FROM once WHERE forget_at <= ?1 ORDER BY forget_at LIMIT ?2)",
            )?
            .execute(params![self.now, FORGET_KEYS])?;
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO once(queue, key, message, forget_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![head.id, once.key, once.message.as_bytes(), self.now.saturating_add(millis)])?;
        self.count(&head, Tally::default());
        Ok(())
    }

    fn settle(&mut self, settle: &mut Settle) -> rusqlite::Result<Answer> {
        let Settle { head, token, leased, verdict, fault, emits, state, events } = settle;
        for emit in emits {
            let target = self.find_or_create(&emit.queue)?;
            self.enqueue(&target, emit)?;
        }
        for write in state.iter() {
            self.remember(write)?;
        }
        let last = matches!(verdict, Verdict::Done).then(|| last_word(events, leased.message)).flatten();
        for (index, event) in events.iter().enumerate() {
            let seq = (last == Some(index)).then_some(leased.row.position.seq);
            self.tell(event, seq)?;
        }
        match verdict {
            Verdict::Continue => {
                self.count(head, Tally::default());
                self.lease_goes_on(head, *token);
                return Ok(Answer::Done);
            }
            Verdict::Done => {
                self.remove(head, &leased.row)?;
                self.finish(head, leased.row.position.seq, leased.row.size, last.is_some())?;
            }
            Verdict::Retry { at } => {
                let mut row = leased.row.clone();
                row.attempt += 1;
                row.first_failed_at.get_or_insert(self.now);
                self.postpone(head, row, at.as_millis())?;
            }
            Verdict::Release => self.returns(head, leased.row.position),
            Verdict::DeadLetter { fault: cause } => {
                let attempts = leased.row.attempt + 1;
                let text = fault.as_deref().unwrap_or("{}");
                self.bury(head, &leased.row, &cause.code, text, attempts)?;
            }
        }
        self.lease_over(head, *token);
        Ok(Answer::Done)
    }

    /// Accounts for a message that left its queue. One that no event tells of is not kept.
    pub(crate) fn finish(&mut self, head: &Arc<Head>, seq: i64, size: u64, told: bool) -> rusqlite::Result<()> {
        if told {
            self.count(head, Tally { finished_bytes: signed(size), ..Tally::default() });
        } else {
            self.connection.prepare_cached("DELETE FROM message WHERE seq = ?1")?.execute([seq])?;
        }
        Ok(())
    }

    fn expire(&mut self, ended: &[Ended]) -> rusqlite::Result<Answer> {
        for Ended { head, token, leased } in ended {
            self.count(head, Tally::default());
            self.count_attempt(head, leased.row.position, self.now)?;
            self.lease_over(head, *token);
            self.returns(head, leased.row.position);
        }
        Ok(Answer::Done)
    }

    /// Moves a waiting message to the dead letters; its payload stays where it is.
    fn bury(&mut self, head: &Arc<Head>, row: &Row, code: &str, fault: &str, attempts: u32) -> rusqlite::Result<()> {
        self.remove(head, row)?;
        self.insert_dead_letter(head, row, code, fault, attempts)
    }

    /// Makes a dead letter of a message that has just left its queue.
    pub(crate) fn insert_dead_letter(
        &mut self,
        head: &Arc<Head>,
        row: &Row,
        code: &str,
        fault: &str,
        attempts: u32,
    ) -> rusqlite::Result<()> {
        let size = signed(row.size);
        self.connection
            .prepare_cached(
                "INSERT INTO dead_letter(seq, queue, code, fault, attempts, died_at, grp, size)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![row.position.seq, head.id, code, fault, attempts, self.now, row.group, size])?;
        self.count(head, Tally { dead: 1, bytes: size, ..Tally::default() });
        Ok(())
    }
}
