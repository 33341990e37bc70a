//! What a delivery asked to remember so far. It becomes durable only with the acknowledgement,
//! so later rounds of the same delivery see it through here.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// Changes to what a step remembers, not yet durable; none removes an entry.
#[derive(Default)]
pub(crate) struct Remembered(Mutex<BTreeMap<String, Option<Value>>>);

impl Remembered {
    /// Takes up changes, in order.
    pub(crate) fn apply(&self, changes: Vec<(String, Option<Value>)>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
    }

    /// The change of one entry, if there is one.
    pub(crate) fn get(&self, key: &str) -> Option<Option<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// How many entries change.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Every change, by key.
    pub(crate) fn all(&self) -> Vec<(String, Option<Value>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect()
    }

    /// A page of entries with the changes put over it. The page must hold as many entries more
    /// than `max` as there are changes, if there are so many.
    pub(crate) fn over(
        &self,
        page: Vec<(String, Value)>,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Vec<(String, Value)> {
        let mut entries: BTreeMap<String, Value> = page.into_iter().collect();
        for (key, value) in self.all().into_iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after) {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        entries.into_iter().take(max).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_shows_what_changed_meanwhile() {
        let remembered = Remembered::default();
        remembered.apply(vec![("k:b".into(), None), ("k:d".into(), Some(json!(4))), ("other".into(), Some(json!(0)))]);
        remembered.apply(vec![("k:a".into(), Some(json!(0)))]);
        let stored = ["a", "b", "c", "e"].map(|key| (format!("k:{key}"), json!(1)));
        let keys = |after: &str, max| {
            let page = stored.iter().filter(|(key, _)| key.as_str() > after).take(max + remembered.len()).cloned();
            let page = remembered.over(page.collect(), "k:", after, max);
            page.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys("", 9), ["k:a", "k:c", "k:d", "k:e"]);
        assert_eq!(keys("", 2), ["k:a", "k:c"]);
        assert_eq!(keys("k:c", 2), ["k:d", "k:e"]);
        assert_eq!(remembered.get("k:b"), Some(None));
        assert_eq!(remembered.get("k:c"), None);
    }
}
