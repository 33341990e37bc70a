//! A lane: the part of one queue's ready or delayed messages that is known in memory.
//!
//! Every waiting message at or before the cursor is known: it is an entry here, or leased.
//! Messages behind the cursor stand on disk; an entry behind the cursor is not deliverable until
//! the cursor has reached it again. A lane never holds more than its bounds, however long the
//! queue is.

use std::collections::BTreeMap;

use flowline_model::Message;

use super::codec::Stored;

/// Where a message stands on its queue: the key of its row. Ready messages have `due` zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) due: i64,
    pub(crate) seq: i64,
}

impl Position {
    pub(crate) fn before(self) -> Self {
        Self { due: self.due, seq: self.seq - 1 }
    }

    pub(crate) fn is_delayed(self) -> bool {
        self.due != 0
    }
}

/// The small row of a waiting message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) position: Position,
    /// Attempts that have ended without a result.
    pub(crate) attempt: u32,
    pub(crate) first_failed_at: Option<i64>,
    pub(crate) group: Option<Box<str>>,
    pub(crate) size: u64,
    pub(crate) enqueued_at: i64,
}

/// A message in memory: as it was published, or as it was read.
#[derive(Debug)]
pub(crate) enum Content {
    Fresh(Box<Message>),
    Stored(Box<Stored>),
}

/// A waiting message that is known in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) row: Row,
    pub(crate) content: Content,
}

impl Entry {
    /// About how many bytes of memory it takes: a parsed message takes a few times its text.
    pub(crate) fn weight(&self) -> usize {
        let size = usize::try_from(self.row.size).unwrap_or(usize::MAX / 8);
        match self.content {
            Content::Fresh(_) => size * 3 + 256,
            Content::Stored(_) => size + 256,
        }
    }
}

/// What is known of one lane.
#[derive(Debug)]
pub(crate) struct Lane {
    entries: BTreeMap<Position, Entry>,
    start: Position,
    pub(crate) cursor: Position,
    /// At the earliest when the first message behind the cursor is due; none if there is none.
    pub(crate) next: Option<i64>,
    pub(crate) weight: usize,
}

impl Lane {
    /// The lane of ready messages.
    pub(crate) fn ready(waiting: bool) -> Self {
        Self::starting_at(Position { due: 0, seq: i64::MIN }, waiting.then_some(0))
    }

    /// The lane of messages with a time.
    pub(crate) fn delayed(waiting: bool) -> Self {
        Self::starting_at(Position { due: 0, seq: i64::MAX }, waiting.then_some(1))
    }

    fn starting_at(start: Position, next: Option<i64>) -> Self {
        Self { entries: BTreeMap::new(), start, cursor: start, next, weight: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains(&self, position: Position) -> bool {
        self.entries.contains_key(&position)
    }

    /// The first message that may be delivered.
    pub(crate) fn first(&self) -> Option<&Entry> {
        self.entries.first_key_value().filter(|(position, _)| **position <= self.cursor).map(|(_, entry)| entry)
    }

    /// Whether a message stands behind the cursor that is due.
    pub(crate) fn is_unread(&self, now: i64) -> bool {
        self.next.is_some_and(|due| due <= now)
    }

    pub(crate) fn take_first(&mut self) -> Option<Entry> {
        let position = self.first()?.row.position;
        self.remove(position)
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        self.weight += entry.weight();
        if let Some(old) = self.entries.insert(entry.row.position, entry) {
            self.weight -= old.weight();
        }
    }

    pub(crate) fn remove(&mut self, position: Position) -> Option<Entry> {
        let entry = self.entries.remove(&position)?;
        self.weight -= entry.weight();
        Some(entry)
    }

    /// A message waits at a position that was not read into memory.
    pub(crate) fn stands_on_disk(&mut self, position: Position) {
        self.next = Some(self.next.map_or(position.due, |next| next.min(position.due)));
        if position <= self.cursor {
            self.cursor = position.before();
        }
    }

    /// Gives up what is in memory; it is read again when it is needed.
    pub(crate) fn forget(&mut self) {
        if let Some((position, _)) = self.entries.first_key_value() {
            let position = *position;
            self.entries.clear();
            self.weight = 0;
            self.cursor = self.cursor.min(position.before()).max(self.start);
            self.next = Some(self.next.map_or(position.due, |next| next.min(position.due)));
        }
    }
}
