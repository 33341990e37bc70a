//! Two small servers to try Flowline against: a CMS that can be put out of order, and a mailbox
//! that catches every mail. Both keep what they get in memory, and only so much of it.

pub mod cms;
pub mod mailbox;
mod page;
pub mod smtp;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The latest entries, each under a key; the oldest give way.
#[derive(Clone)]
pub(crate) struct Latest<T> {
    entries: Arc<Mutex<VecDeque<(String, T)>>>,
    most: usize,
}

impl<T: Clone> Latest<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self { entries: Arc::default(), most }
    }

    /// Adds an entry unless there is one under its key; whether it is new.
    pub(crate) fn add(&self, key: &str, entry: T) -> bool {
        let mut entries = self.lock();
        if entries.iter().any(|(known, _)| known == key) {
            return false;
        }
        entries.push_back((key.to_owned(), entry));
        if entries.len() > self.most {
            entries.pop_front();
        }
        true
    }

    /// All entries, the newest first.
    pub(crate) fn all(&self) -> Vec<T> {
        self.lock().iter().rev().map(|(_, entry)| entry.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, T)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
