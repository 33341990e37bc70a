//! The log: one JSON object on each line of standard output, as step containers write it.
//!
//! A thread writes, so that a reader who is slow never holds up the work; when too much waits,
//! lines are left out and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use flowline_sdk::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::settings::Settings;

/// Lines that may wait to be written.
const MOST_WAITING: usize = 1_024;
/// The longest text of one line, in characters.
const LONGEST: usize = 16_384;
/// The levels of the format.
const INFO: u8 = 30;
const WARN: u8 = 40;

enum Item {
    Line(String),
    /// Tells when all before it is written.
    Mark(oneshot::Sender<()>),
}

/// Writes lines.
#[derive(Clone)]
pub(crate) struct Lines {
    waiting: SyncSender<Item>,
    left_out: Arc<AtomicU64>,
    flow: Arc<str>,
    container: Arc<str>,
}

/// Which message a line is about.
pub(crate) struct About<'a> {
    pub(crate) thread: Option<&'a str>,
    pub(crate) message: &'a str,
}

impl Lines {
    /// Starts the thread that writes.
    pub(crate) fn start(settings: &Settings) -> Self {
        let (waiting, items) = sync_channel(MOST_WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        // Without the thread there is no log; the work goes on.
        let _ = std::thread::Builder::new().name("log".into()).stack_size(128 * 1024).spawn(move || write(&items));
        Self { waiting, left_out, flow: settings.flow.as_str().into(), container: settings.container.as_str().into() }
    }

    /// A line of the worker itself.
    pub(crate) fn info(&self, text: &str) {
        self.put("worker", INFO, text, None);
    }

    /// A line of the worker itself, about trouble.
    pub(crate) fn warn(&self, text: &str) {
        self.put("worker", WARN, text, None);
    }

    /// A line of an operation.
    pub(crate) fn component(&self, text: &str, about: &About<'_>) {
        self.put("component", INFO, text, Some(about));
    }

    fn put(&self, name: &str, level: u8, text: &str, about: Option<&About<'_>>) {
        let missing = self.left_out.swap(0, Ordering::Relaxed);
        if missing > 0 && self.offer(self.line("worker", WARN, &format!("{missing} lines are left out"), None)).is_err()
        {
            self.left_out.fetch_add(missing, Ordering::Relaxed);
        }
        if self.offer(self.line(name, level, text, about)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn offer(&self, line: String) -> Result<(), ()> {
        self.waiting.try_send(Item::Line(line)).map_err(drop)
    }

    fn line(&self, name: &str, level: u8, text: &str, about: Option<&About<'_>>) -> String {
        let text: String = text.chars().take(LONGEST).collect();
        let mut line = json!({
            "name": name, "hostname": &*self.container, "pid": std::process::id(), "level": level, "msg": text,
            "time": now().to_string(), "v": 0, "tag": &*self.flow,
        });
        if let (Some(fields), Some(about)) = (line.as_object_mut(), about) {
            fields.insert("messageId".into(), about.message.into());
            fields.insert("threadId".into(), about.thread.map_or(Value::Null, Value::from));
        }
        line.to_string()
    }

    /// Waits until everything so far is written.
    pub(crate) async fn finish(&self) {
        let (mark, written) = oneshot::channel();
        let waiting = self.waiting.clone();
        let _sent = tokio::task::spawn_blocking(move || waiting.send(Item::Mark(mark))).await;
        let _written = written.await;
    }
}

/// The time now.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn write(items: &Receiver<Item>) {
    while let Ok(item) = items.recv() {
        match item {
            // Standard output that is gone is nothing that could be told anywhere.
            Item::Line(line) => drop(writeln!(io::stdout().lock(), "{line}")),
            Item::Mark(mark) => {
                let _ = io::stdout().lock().flush();
                let _ = mark.send(());
            }
        }
    }
}
