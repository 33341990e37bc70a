//! The conservation oracle: what was accepted on one side against what arrived on the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    client::Fate,
    deliveries::{Deliveries, Item},
};

/// What must, may and must not arrive.
#[derive(Default)]
pub(crate) struct Ledger {
    promised: BTreeSet<Item>,
    possible: BTreeSet<Item>,
    messages: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Ledger {
    /// Notes what became of a request that would bring these items to the target.
    pub(crate) fn note(&mut self, fate: Fate, items: Vec<Item>) {
        match fate {
            Fate::Refused => {}
            Fate::Unknown => self.possible.extend(items),
            Fate::Accepted(message) => {
                *self.messages.entry(message).or_default() += 1;
                self.promised.extend(items);
            }
        }
    }

    /// Notes an item that must arrive though nobody was promised so, as one of a polled source.
    pub(crate) fn promise(&mut self, item: Item) {
        self.promised.insert(item);
    }

    /// How many requests were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.messages.values().map(|count| usize::try_from(*count).unwrap_or(usize::MAX)).sum()
    }

    /// How many items may arrive although their requests were never answered.
    pub(crate) fn possible(&self) -> usize {
        self.possible.len()
    }

    /// What was promised and has neither arrived nor died.
    pub(crate) fn missing(&self, arrived: &Deliveries, dead: &BTreeSet<Item>) -> Vec<Item> {
        self.promised.iter().filter(|item| !arrived.has(item) && !dead.contains(item)).cloned().collect()
    }

    /// Everything that breaks the promises.
    pub(crate) fn violations(&self, arrived: &Deliveries, dead: &[Item]) -> Vec<String> {
        let mut found = self.wrong.clone();
        found.extend(arrived.violations());
        let dead_once: BTreeSet<Item> = dead.iter().cloned().collect();
        if dead_once.len() < dead.len() {
            found.push(format!("{} dead letters are there twice", dead.len() - dead_once.len()));
        }
        for item in self.missing(arrived, &dead_once) {
            found.push(format!("{item:?} was accepted and is lost"));
        }
        for item in arrived.items().chain(&dead_once) {
            if !self.promised.contains(item) && !self.possible.contains(item) {
                found.push(format!("{item:?} came from nowhere"));
            }
        }
        for item in dead_once.iter().filter(|item| arrived.has(item)) {
            found.push(format!("{item:?} is delivered and dead"));
        }
        for (message, count) in self.messages.iter().filter(|(message, count)| **count > 1 || message.is_empty()) {
            found.push(format!("{count} requests were told the message id `{message}`"));
        }
        found
    }
}
