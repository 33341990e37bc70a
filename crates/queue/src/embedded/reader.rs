//! A thread with a connection of its own that only reads: long listings never hold up a commit,
//! and no reading blocks the async runtime.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::schema::{explain, open_reader};
use crate::QueueError;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// Sends work to a reading thread.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Reader {
    /// Starts the thread.
    pub(crate) fn start(path: &Path, name: &str) -> Result<Self, QueueError> {
        let connection = open_reader(path)?;
        let (jobs, orders) = channel::<Job>();
        let run = move || orders.into_iter().for_each(|job| job(&connection));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|error| QueueError::Disk(format!("a thread for reading could not be started: {error}")))?;
        Ok(Self { path: path.to_owned(), running: Mutex::new(Some(Running { jobs, thread })) })
    }

    /// Ends the thread once it has answered what it was asked.
    pub(crate) fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { jobs, thread }) = running {
            drop(jobs);
            drop(thread.join());
        }
    }

    /// Runs a query on the thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| drop(reply.send(query(connection))));
        {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.as_ref().ok_or(QueueError::Closed)?.jobs.send(job).map_err(|_| QueueError::Closed)?;
        }
        let result = answer.await.map_err(|_| QueueError::Closed)?;
        result.map_err(|error| explain(&self.path, &error))
    }
}
