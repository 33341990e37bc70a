//! Lines: what a worker outside this process writes, as lines of its step's log.
//!
//! Bounded in length and in number: a worker that writes without end cannot fill anything.

use std::time::Duration;

use flowline_model::QueueName;
use tokio::time::Instant;
use tracing::Level;

use super::record::Record;
use crate::Secrets;

/// The longest line, in bytes; the rest of it is left out.
const LONGEST: usize = 8 * 1024;
/// Lines in each period.
const MOST: u32 = 500;
/// The period.
const PERIOD: Duration = Duration::from_secs(1);

/// Where lines go: the log of a step.
#[derive(Clone)]
pub(crate) struct LogTarget {
    pub(crate) queue: QueueName,
    pub(crate) worker: String,
    pub(crate) secrets: Secrets,
}

impl LogTarget {
    /// The same for one worker.
    pub(crate) fn of(&self, worker: &str) -> Self {
        Self { worker: worker.to_owned(), ..self.clone() }
    }

    /// Writes a line.
    pub(crate) fn write(&self, line: &str) {
        let Record { level, text } = Record::of(line);
        let printable: String = text.chars().filter(|char| !char.is_control() || *char == '\t').collect();
        let line = self.secrets.scrub(printable);
        let Self { queue, worker, .. } = self;
        // A level is part of where a line comes from: each has a place of its own.
        macro_rules! say {
            ($level:ident) => {
                tracing::event!(target: "flowline::step", Level::$level, flow = %queue.flow, step = %queue.step, worker, "{line}")
            };
        }
        match level {
            Level::ERROR => say!(ERROR),
            Level::WARN => say!(WARN),
            Level::INFO => say!(INFO),
            Level::DEBUG => say!(DEBUG),
            _ => say!(TRACE),
        }
    }
}

/// Makes lines of pieces, within the bounds.
pub(crate) struct Lines {
    target: LogTarget,
    line: Vec<u8>,
    budget: Budget,
}

impl Lines {
    pub(crate) fn new(target: LogTarget) -> Self {
        Self { target, line: Vec::new(), budget: Budget::new() }
    }

    /// Takes a piece of output.
    pub(crate) fn take(&mut self, piece: &[u8]) {
        let mut parts = piece.split(|byte| *byte == b'\n');
        let first = parts.next().unwrap_or_default();
        self.extend(first);
        for part in parts {
            self.end_line();
            self.extend(part);
        }
    }

    fn extend(&mut self, part: &[u8]) {
        let room = (LONGEST + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self) {
        let (allowed, left_out) = self.budget.spend(Instant::now());
        if left_out > 0 {
            self.target.write(&format!("… {left_out} lines left out: more than {MOST} in a second"));
        }
        if allowed && !self.line.is_empty() {
            self.target.write(&bounded(&self.line));
        }
        self.line.clear();
    }

    /// Writes what is left of the last line.
    pub(crate) fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}

fn bounded(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
    if line.len() > LONGEST { format!("{text}…") } else { text.into_owned() }
}

/// How many lines may still be written in this period.
struct Budget {
    since: Instant,
    spent: u32,
    left_out: u64,
}

impl Budget {
    fn new() -> Self {
        Self { since: Instant::now(), spent: 0, left_out: 0 }
    }

    /// Whether a line may be written, and how many could not before, once that can be told.
    fn spend(&mut self, now: Instant) -> (bool, u64) {
        let mut told = 0;
        if now.duration_since(self.since) >= PERIOD {
            told = std::mem::take(&mut self.left_out);
            self.since = now;
            self.spent = 0;
        }
        if self.spent >= MOST {
            self.left_out += 1;
            return (false, told);
        }
        self.spent += 1;
        (true, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_and_told() {
        let mut budget = Budget::new();
        let now = Instant::now();
        let written = (0..MOST + 7).filter(|_| budget.spend(now).0).count();
        assert_eq!(written, MOST as usize);
        assert_eq!(budget.spend(now + PERIOD), (true, 7));
        assert_eq!(budget.spend(now + PERIOD), (true, 0));
    }

    #[test]
    fn a_long_line_is_cut() {
        assert_eq!(bounded(b"short"), "short");
        assert_eq!(bounded(&[b'a'; LONGEST + 1]).len(), LONGEST + "…".len());
    }
}
