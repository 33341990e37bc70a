//! What arrived at the target: for each item the idempotency keys under which it came.

use std::collections::{BTreeMap, BTreeSet};

/// Something that must arrive once: where, and what its sender calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    /// The path at the target.
    pub(crate) route: String,
    /// The sender's name for it.
    pub(crate) name: String,
}

impl Item {
    /// An item by route and name.
    pub(crate) fn new(route: &str, name: impl ToString) -> Self {
        Self { route: route.to_owned(), name: name.to_string() }
    }
}

/// What arrived at the target.
#[derive(Default)]
pub(crate) struct Deliveries {
    keys: BTreeMap<Item, BTreeSet<String>>,
    contents: BTreeMap<String, Vec<Item>>,
    repeats: usize,
    wrong: Vec<String>,
}

impl Deliveries {
    /// Notes one request: several items if it brings a batch.
    pub(crate) fn note(&mut self, key: Option<String>, items: Vec<Item>) {
        let Some(key) = key else {
            self.wrong.push(format!("{items:?} came without an idempotency key"));
            return;
        };
        let twice = items.iter().collect::<BTreeSet<_>>().len() < items.len();
        if items.is_empty() || twice {
            self.wrong.push(format!("{key} brings nothing, or something twice: {items:?}"));
        }
        match self.contents.get(&key) {
            Some(before) if *before == items => self.repeats += 1,
            Some(before) => self.wrong.push(format!("{key} came with {before:?} and then with {items:?}")),
            None => {
                for item in &items {
                    self.keys.entry(item.clone()).or_default().insert(key.clone());
                }
                self.contents.insert(key, items);
            }
        }
    }

    /// Whether an item has arrived.
    pub(crate) fn has(&self, item: &Item) -> bool {
        self.keys.contains_key(item)
    }

    /// How many different items arrived.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many requests repeated an earlier one with the same key: allowed after a crash
    /// between the effect and its settlement.
    pub(crate) fn repeats(&self) -> usize {
        self.repeats
    }

    /// Everything that arrived.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.keys.keys()
    }

    /// What no target may ever see: no key, one key for different things, two keys for one thing.
    pub(crate) fn violations(&self) -> Vec<String> {
        let doubled = self.keys.iter().filter(|(_, keys)| keys.len() > 1);
        let doubled = doubled.map(|(item, keys)| format!("{item:?} came under several keys: {keys:?}"));
        self.wrong.iter().cloned().chain(doubled).collect()
    }
}
