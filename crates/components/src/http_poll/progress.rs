//! How far a polling of a list came: what is new, from where to ask next, what is remembered.
//!
//! Pure bookkeeping, made durable after every page together with what the page brought. It never
//! skips an item: while a walk over the pages is under way the source is asked from where the
//! walk before ended, and what it may be asked from next follows only from what cannot have
//! changed behind the walk's back.

use std::{cmp::Ordering, collections::HashSet};

use chrono::DateTime;
use flowline_sdk::Fault;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::http::pagination::Position;

/// How far it came; the trigger's snapshot.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// Whether a walk has ended before.
    pub(crate) primed: bool,
    /// From where the source is asked.
    pub(crate) cursor: Option<Value>,
    /// The walk that is under way.
    walk: Walk,
    /// What was seen: what this walk saw stands last.
    seen: Vec<Seen>,
}

/// A walk over the pages.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Walk {
    /// Where it stands; none is the first page.
    position: Option<Position>,
    /// Pages read since the tick.
    pages: u32,
    /// How many of the remembered items it saw.
    saw: usize,
    mark: Option<Mark>,
}

/// The cursors that a walk saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mark {
    /// The highest on its first page.
    first: Value,
    /// The highest.
    highest: Value,
    /// Whether no item came after one with a higher cursor.
    ascending: bool,
}

/// An item that was seen, and its cursor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen(String, Option<Value>);

/// An item of a page.
pub(crate) struct Item {
    /// What tells it from others; the same item with another cursor has changed and is new.
    pub(crate) key: String,
    /// Its cursor.
    pub(crate) cursor: Option<Value>,
    /// The item.
    pub(crate) body: Value,
}

impl Progress {
    /// Where the walk stands; none is the first page.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.walk.position.as_ref()
    }

    /// Begins the walk anew: its position is no place in the list any more.
    pub(crate) fn restart(&mut self) {
        self.walk = Walk::default();
    }

    /// Takes a page; returns what is new on it. At most `window` items of a walk are remembered.
    pub(crate) fn take(&mut self, items: Vec<Item>, window: usize) -> Result<Vec<Value>, Fault> {
        self.note_cursors(&items)?;
        let known: HashSet<&str> = self.seen.iter().map(|seen| seen.0.as_str()).collect();
        let (mut here, mut saw, mut new) = (HashSet::new(), Vec::new(), Vec::new());
        for item in items {
            if self.is_past(&item)? || !here.insert(item.key.clone()) {
                continue;
            }
            if !known.contains(item.key.as_str()) {
                new.push(item.body);
            }
            saw.push(Seen(item.key, item.cursor));
        }
        let mut walked = self.seen.split_off(self.seen.len().saturating_sub(self.walk.saw));
        self.seen.retain(|seen| !here.contains(&seen.0));
        walked.retain(|seen| !here.contains(&seen.0));
        walked.append(&mut saw);
        self.forget_in(&mut walked, window)?;
        self.walk.saw = walked.len();
        self.seen.append(&mut walked);
        Ok(new)
    }

    /// Goes on to the next page, or ends the walk if there is none. Whether to ask again at once.
    pub(crate) fn turn(&mut self, next: Option<Position>, most_pages: u32, window: usize) -> Result<bool, Fault> {
        if next.is_some() {
            self.walk.position = next;
            self.walk.pages += 1;
            let more = self.walk.pages < most_pages;
            if !more {
                // The next tick goes on here.
                self.walk.pages = 0;
            }
            return Ok(more);
        }
        if let Some(mark) = self.walk.mark.take() {
            let reached = mark.safe();
            if !self.cursor.as_ref().is_some_and(|cursor| matches!(compare(reached, cursor), Ok(Ordering::Less))) {
                self.cursor = Some(reached.clone());
            }
        }
        let excess = self.seen.len().saturating_sub(window.max(self.walk.saw));
        self.seen.drain(..excess);
        self.primed = true;
        self.restart();
        Ok(false)
    }

    /// Whether an item lies before what the source was asked for: then it was seen.
    fn is_past(&self, item: &Item) -> Result<bool, Fault> {
        match (&item.cursor, &self.cursor) {
            (Some(cursor), Some(asked)) => Ok(compare(cursor, asked)? == Ordering::Less),
            _ => Ok(false),
        }
    }

    fn note_cursors(&mut self, items: &[Item]) -> Result<(), Fault> {
        let mut page_highest: Option<&Value> = None;
        let mut highest = self.walk.mark.as_ref().map(|mark| mark.highest.clone());
        let mut ascending = self.walk.mark.as_ref().is_none_or(|mark| mark.ascending);
        for cursor in items.iter().filter_map(|item| item.cursor.as_ref()) {
            match &highest {
                Some(known) if compare(cursor, known)? == Ordering::Less => ascending = false,
                _ => highest = Some(cursor.clone()),
            }
            let leads = page_highest.map_or(Ok(Ordering::Greater), |known| compare(cursor, known))?;
            if leads == Ordering::Greater {
                page_highest = Some(cursor);
            }
        }
        if let (Some(highest), Some(page_highest)) = (highest, page_highest) {
            let first = self.walk.mark.take().map_or_else(|| page_highest.clone(), |mark| mark.first);
            self.walk.mark = Some(Mark { first, highest, ascending });
        }
        Ok(())
    }

    /// Forgets the oldest of what a walk saw, as far as nobody will ask for it again.
    fn forget_in(&self, walked: &mut Vec<Seen>, window: usize) -> Result<(), Fault> {
        let mut excess = walked.len().saturating_sub(window);
        if excess == 0 {
            return Ok(());
        }
        let safe = self.walk.mark.as_ref().map(Mark::safe);
        walked.retain(|Seen(_, cursor)| {
            let behind =
                cursor.as_ref().zip(safe).is_some_and(|(own, safe)| matches!(compare(own, safe), Ok(Ordering::Less)));
            let forget = behind && excess > 0;
            excess -= usize::from(forget);
            !forget
        });
        if excess == 0 {
            return Ok(());
        }
        Err(Fault::misconfigured(
            "window_too_small",
            format!("the source lists more than {window} items, which is all that is remembered: make `window` larger"),
        ))
    }
}

impl Mark {
    /// From where the source can be asked next without skipping anything.
    ///
    /// In ascending order everything new comes after the end. Otherwise an item may have changed
    /// on a page that was read already, and its new cursor is higher than all that the first page
    /// held when it was read, but not than all that came later.
    fn safe(&self) -> &Value {
        if self.ascending { &self.highest } else { &self.first }
    }
}

/// The longest text that is remembered as it is.
const LONGEST_KEY: usize = 64;

/// What tells an item from others: its id and cursor, or their hash if they are long.
pub(crate) fn key(id: &Value, cursor: Option<&Value>) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text = match cursor {
        Some(cursor) if cursor != id => format!("{} {}", plain(id), plain(cursor)),
        _ => plain(id),
    };
    if text.len() <= LONGEST_KEY {
        return text;
    }
    hex::encode(&Sha256::digest(&text)[..16])
}

/// Orders two cursors: numbers, instants (RFC 3339), texts of digits, other texts.
fn compare(left: &Value, right: &Value) -> Result<Ordering, Fault> {
    let ordering = match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        },
        (Value::String(a), Value::String(b)) => Some(compare_texts(a, b)),
        _ => None,
    };
    ordering.ok_or_else(|| {
        Fault::misconfigured("cursor_unordered", format!("the cursors {left} and {right} have no common order"))
    })
}

fn compare_texts(a: &str, b: &str) -> Ordering {
    if let (Ok(a), Ok(b)) = (DateTime::parse_from_rfc3339(a), DateTime::parse_from_rfc3339(b)) {
        return a.cmp(&b);
    }
    let is_count = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_count(a) && is_count(b) {
        let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
        return a.len().cmp(&b.len()).then_with(|| a.cmp(b));
    }
    a.cmp(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items(pairs: &[(&str, Value)]) -> Vec<Item> {
        let item = |(id, cursor): &(&str, Value)| {
            let cursor = Some(cursor.clone()).filter(|cursor| !cursor.is_null());
            Item { key: key(&json!(id), cursor.as_ref()), cursor, body: json!(id) }
        };
        pairs.iter().map(item).collect()
    }

    fn ids(names: &[&str]) -> Vec<Item> {
        items(&names.iter().map(|name| (*name, Value::Null)).collect::<Vec<_>>())
    }

    /// Walks over the pages; what was new. Every page goes through its durable form.
    fn walk(progress: &mut Progress, pages: Vec<Vec<Item>>, window: usize) -> Result<Vec<String>, Fault> {
        let (mut new, last) = (Vec::new(), pages.len() - 1);
        for (number, page) in pages.into_iter().enumerate() {
            *progress = serde_json::from_value(serde_json::to_value(&*progress).unwrap()).unwrap();
            let taken = progress.take(page, window)?;
            new.extend(taken.iter().filter_map(Value::as_str).map(str::to_owned));
            let next = (number < last).then_some(Position::Number(number as u64 + 1));
            progress.turn(next, 100, window)?;
        }
        Ok(new)
    }

    #[test]
    fn each_id_is_new_once() {
        let mut progress = Progress::default();
        assert_eq!(walk(&mut progress, vec![ids(&["a", "b"]), ids(&["b", "c"])], 9).unwrap(), ["a", "b", "c"]);
        assert_eq!(walk(&mut progress, vec![ids(&["d", "c"]), ids(&["b", "a"])], 9).unwrap(), ["d"]);
        assert!(progress.primed && progress.position().is_none());
    }

    #[test]
    fn what_is_still_listed_is_not_forgotten_for_what_came() {
        let mut progress = Progress::default();
        walk(&mut progress, vec![ids(&["c", "b", "a"])], 3).unwrap();
        assert_eq!(walk(&mut progress, vec![ids(&["e", "d"]), ids(&["c"])], 3).unwrap(), ["e", "d"]);
        assert_eq!(progress.seen.len(), 3);
        assert_eq!(walk(&mut progress, vec![ids(&["e", "d", "c"])], 3).unwrap().len(), 0);
    }

    #[test]
    fn a_list_longer_than_the_window_is_a_fault_and_not_a_repetition() {
        let mut progress = Progress::default();
        let fault = walk(&mut progress, vec![ids(&["a", "b"]), ids(&["c", "d"])], 3).unwrap_err();
        assert_eq!(fault.code, "window_too_small");
    }

    #[test]
    fn an_ascending_list_moves_the_cursor_to_its_end_and_needs_no_large_window() {
        let mut progress = Progress::default();
        let page = |from: i64| (from..from + 3).map(|n| (format!("i{n}"), json!(n))).collect::<Vec<_>>();
        let as_items = |page: &[(String, Value)]| {
            items(&page.iter().map(|(id, cursor)| (id.as_str(), cursor.clone())).collect::<Vec<_>>())
        };
        let pages = [page(0), page(3), page(6)].iter().map(|page| as_items(page)).collect();
        assert_eq!(walk(&mut progress, pages, 3).unwrap().len(), 9);
        assert_eq!(progress.cursor, Some(json!(8)));
        // The source includes the border; nothing is repeated, a second item at the border is new.
        let border = items(&[("i8", json!(8)), ("twin", json!(8)), ("i9", json!(9))]);
        assert_eq!(walk(&mut progress, vec![border], 3).unwrap(), ["twin", "i9"]);
    }

    #[test]
    fn a_change_behind_the_walk_is_not_skipped() {
        let mut progress = Progress::default();
        // Ordered by id, not by cursor. While page 2 is read, `a` changes to 7 and `d` to 8.
        let pages = vec![items(&[("a", json!(5)), ("b", json!(3))]), items(&[("c", json!(1)), ("d", json!(8))])];
        walk(&mut progress, pages, 9).unwrap();
        assert_eq!(progress.cursor, Some(json!(5)), "not 8: that would skip the change of `a`");
        let page = items(&[("a", json!(7)), ("d", json!(8))]);
        assert_eq!(walk(&mut progress, vec![page], 9).unwrap(), ["a"]);
    }

    #[test]
    fn a_descending_list_moves_the_cursor_to_its_beginning() {
        let mut progress = Progress::default();
        let pages = vec![items(&[("d", json!(4)), ("c", json!(3))]), items(&[("b", json!(2)), ("a", json!(1))])];
        assert_eq!(walk(&mut progress, pages, 3).unwrap().len(), 4);
        assert_eq!(progress.cursor, Some(json!(4)));
        let page = items(&[("e", json!(5)), ("d", json!(4))]);
        assert_eq!(walk(&mut progress, vec![page], 3).unwrap(), ["e"]);
    }

    #[test]
    fn after_the_most_pages_the_next_tick_goes_on() {
        let mut progress = Progress::default();
        progress.take(ids(&["a"]), 9).unwrap();
        assert!(progress.turn(Some(Position::Number(1)), 2, 9).unwrap());
        progress.take(ids(&["b"]), 9).unwrap();
        assert!(!progress.turn(Some(Position::Number(2)), 2, 9).unwrap());
        assert_eq!(progress.position(), Some(&Position::Number(2)));
        assert!(!progress.primed);
    }

    #[test]
    fn cursors_have_an_order() {
        for (low, high) in [
            (json!(9), json!(10)),
            (json!(1.5), json!(2)),
            (json!("9"), json!("10")),
            (json!("2026-01-01T00:00:00Z"), json!("2026-01-01T00:00:00.5Z")),
            (json!("2026-01-01T02:00:00+02:00"), json!("2026-01-01T00:30:00Z")),
            (json!("a9"), json!("b1")),
        ] {
            assert_eq!(compare(&low, &high).unwrap(), Ordering::Less, "{low} {high}");
            assert_eq!(compare(&high, &low).unwrap(), Ordering::Greater, "{low} {high}");
        }
        assert!(compare(&json!(1), &json!("1")).is_err());
    }
}
