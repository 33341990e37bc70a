//! What a connection may ask for, and what it wants from the world around it.

use super::{budget::Budget, content::Publication};

/// How much a connection may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A name that no other connection has or had. It becomes part of consumers' tags: clients
    /// tell by them whether a delivery is from before they lost their connection.
    pub name: String,
    /// Bytes of the largest frame.
    pub frame: u32,
    /// Channels.
    pub channels: u16,
    /// Seconds between heartbeats; zero is none.
    pub heartbeat: u16,
    /// Bytes of the largest body.
    pub body: usize,
    /// Memory for bodies that are not complete, of all connections.
    pub budget: Budget,
}

/// What the protocol wants from the world.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants in: answer with [`Connection::admit`].
    Login {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// The handshake is over.
    Opened,
    /// A consumer begins.
    Consume {
        /// Its channel.
        channel: u16,
        /// Its tag.
        tag: String,
        /// Messages it takes at the same time.
        credit: u32,
    },
    /// A consumer ends.
    Cancel {
        /// Its channel.
        channel: u16,
        /// Its tag.
        tag: String,
    },
    /// A channel takes another number of messages.
    Credit {
        /// The channel.
        channel: u16,
        /// Messages it takes at the same time.
        credit: u32,
    },
    /// One message is asked for: answer with [`Connection::answer_get`].
    Get {
        /// The channel.
        channel: u16,
        /// Messages it takes at the same time.
        credit: u32,
    },
    /// A message was published: answer with [`Connection::confirm`] if it has a number.
    Publish(Box<Publication>),
    /// A delivered message was settled.
    Settle {
        /// The caller's name for the delivery.
        held: u64,
        /// How.
        verdict: Verdict,
    },
    /// A channel ended with what was delivered on it.
    ChannelGone {
        /// The channel.
        channel: u16,
        /// What was not settled.
        held: Vec<u64>,
    },
    /// Something was refused; for the log.
    Refused {
        /// The protocol's number.
        code: u16,
        /// What for.
        text: String,
    },
}

/// How a delivered message was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Ack,
    /// It is refused for good.
    Reject,
    /// It is given back.
    Requeue,
}

impl Verdict {
    pub(super) fn no(requeue: bool) -> Self {
        if requeue { Self::Requeue } else { Self::Reject }
    }
}
