//! What callers ask of the writer thread.

use std::sync::Arc;

use flowline_model::{MessageId, Verdict};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    codec::{EventRow, Incoming, StateChange},
    heads::{Head, Leased},
    job::Job,
};
use crate::{Once, Published, QueueDeclaration, QueueError, Retention};

/// Answers one command.
pub(crate) type Reply = oneshot::Sender<Result<Answer, QueueError>>;

/// How a command went.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Done,
    Published(Published),
    Count(u64),
    /// One chunk is done; the command goes on in a later commit.
    More,
}

/// What arrives at the writer.
pub(crate) enum Order {
    Write(Command),
    /// Read the next messages of a queue into memory.
    Read {
        head: Arc<Head>,
        reply: Option<oneshot::Sender<Result<(), QueueError>>>,
    },
    /// Something is due sooner than the writer thinks.
    Wake,
    Close,
}

/// Something that changes the store.
pub(crate) struct Command {
    pub(crate) work: Work,
    pub(crate) reply: Option<Reply>,
    /// Its share of what may stand before the writer at one time.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

pub(crate) enum Work {
    Declare(Vec<QueueDeclaration>),
    Publish(Publish),
    Settle(Box<Settle>),
    /// Leases whose time is up.
    Expire(Vec<Ended>),
    Forget(Retention),
    Job(Box<Job>),
}

pub(crate) struct Publish {
    pub(crate) messages: Vec<Incoming>,
    pub(crate) state: Vec<StateChange>,
    pub(crate) events: Vec<EventRow>,
    pub(crate) once: Option<Once>,
}

pub(crate) struct Settle {
    pub(crate) head: Arc<Head>,
    pub(crate) token: u64,
    pub(crate) leased: Leased,
    pub(crate) verdict: Verdict,
    /// The fault of a dead letter as JSON.
    pub(crate) fault: Option<String>,
    pub(crate) emits: Vec<Incoming>,
    pub(crate) state: Vec<StateChange>,
    pub(crate) events: Vec<EventRow>,
}

pub(crate) struct Ended {
    pub(crate) head: Arc<Head>,
    pub(crate) token: u64,
    pub(crate) leased: Leased,
}

impl Work {
    /// About how many bytes it puts into a commit.
    pub(crate) fn weight(&self) -> usize {
        let bytes = |messages: &[Incoming]| messages.iter().map(|message| message.payload.len() + 256).sum::<usize>();
        match self {
            Work::Publish(publish) => 256 + bytes(&publish.messages),
            Work::Settle(settle) => 256 + bytes(&settle.emits),
            Work::Declare(_) | Work::Expire(_) => 1 << 10,
            Work::Forget(_) | Work::Job(_) => 64 << 10,
        }
    }

    /// Undoes what was set aside in memory for a command that failed as a whole.
    pub(crate) fn abandon(&mut self, retry_at: i64) {
        match self {
            Work::Settle(settle) => settle.head.state().resume_lease(settle.token, None),
            Work::Expire(ended) => {
                for ended in ended {
                    ended.head.state().resume_lease(ended.token, Some(retry_at));
                }
            }
            Work::Job(job) => job.release_claims(),
            Work::Declare(_) | Work::Publish(_) | Work::Forget(_) => {}
        }
    }
}

/// Which of the events tells of a message that has just left its queue for good: with that event
/// the message is forgotten later.
pub(crate) fn last_word(events: &[EventRow], message: MessageId) -> Option<usize> {
    events.iter().rposition(|event| event.message == message)
}
