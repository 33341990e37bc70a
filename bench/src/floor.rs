//! The floor: the same work with no engine. An HTTP server on the same libraries that appends
//! each body to a file with group `fdatasync` before 202, maps in Rust, and posts to the sink.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as thread_mpsc,
    },
    thread,
};

use anyhow::Result;
use axum::{Json, Router, body::Bytes, extract::State, http::StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{form::Form, process};

/// How many posts are under way at the same time.
const CONCURRENCY: usize = 16;

/// A body that waits for the disk, and who waits for it.
type Waiting = (Bytes, oneshot::Sender<()>);

#[derive(Clone)]
struct Floor {
    writer: thread_mpsc::Sender<Waiting>,
    accepted: Arc<AtomicU64>,
}

/// Serves until it is killed; prints its address first.
pub(crate) async fn run(file: &Path, sink: String) -> Result<()> {
    let (writer, waiting) = thread_mpsc::channel();
    let (durable, work) = mpsc::unbounded_channel();
    let file = File::create(file)?;
    thread::spawn(move || append_in_groups(file, &waiting, &durable));
    post_all(work, sink)?;
    let floor = Floor { writer, accepted: Arc::default() };
    process::serve("127.0.0.1", Router::new().fallback(accept).with_state(floor)).await
}

async fn accept(State(floor): State<Floor>, body: Bytes) -> (StatusCode, Json<Value>) {
    let (done, durable) = oneshot::channel();
    if floor.writer.send((body, done)).is_err() || durable.await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({})));
    }
    let number = floor.accepted.fetch_add(1, Ordering::Relaxed);
    (StatusCode::ACCEPTED, Json(json!({ "message": format!("{number:032x}") })))
}

/// Appends everything that waits, syncs once, and lets all of it go on.
fn append_in_groups(
    mut file: File,
    waiting: &thread_mpsc::Receiver<Waiting>,
    durable: &mpsc::UnboundedSender<Bytes>,
) -> Option<()> {
    let mut buffer = Vec::new();
    while let Ok(first) = waiting.recv() {
        let group: Vec<Waiting> = std::iter::once(first).chain(waiting.try_iter()).collect();
        buffer.clear();
        for (body, _) in &group {
            buffer.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
            buffer.extend_from_slice(body);
        }
        file.write_all(&buffer).and_then(|()| file.sync_data()).ok()?;
        for (body, done) in group {
            durable.send(body).ok()?;
            // Whoever hung up meanwhile does not need the answer.
            let _ = done.send(());
        }
    }
    None
}

/// Maps and posts what is durable, a few at a time.
fn post_all(work: mpsc::UnboundedReceiver<Bytes>, sink: String) -> Result<()> {
    let client = process::client()?;
    let work = Arc::new(Mutex::new(work));
    for _ in 0..CONCURRENCY {
        let (client, work, sink) = (client.clone(), Arc::clone(&work), sink.clone());
        tokio::spawn(async move {
            loop {
                let next = work.lock().await.recv().await;
                let Some(body) = next else { return anyhow::Ok(()) };
                let contact = serde_json::from_slice::<Form>(&body)?.into_contact();
                let key = format!("{:032x}", contact.id);
                client.post(&sink).header("idempotency-key", key).json(&contact).send().await?.error_for_status()?;
            }
        });
    }
    Ok(())
}
