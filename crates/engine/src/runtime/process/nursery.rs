//! The thread that starts child processes, and does nothing else.
//!
//! The kernel ends a child when the thread that started it ends, so that none outlives a server
//! that was killed. Threads of the async runtime come and go; this one stays.

use std::sync::{Mutex, PoisonError, mpsc};

use tokio::{process::Child, runtime::Handle, sync::oneshot};

use crate::runtime::Trouble;

type Start = Box<dyn FnOnce() + Send>;

/// The way to the thread, once there is one. What waits there is bounded by the number of workers.
static THREAD: Mutex<Option<mpsc::Sender<Start>>> = Mutex::new(None);

/// Starts a child there.
pub(super) async fn start(child: impl FnOnce() -> Result<Child, Trouble> + Send + 'static) -> Result<Child, Trouble> {
    let (tell, told) = oneshot::channel();
    let runtime = Handle::current();
    hand_over(Box::new(move || {
        let _context = runtime.enter();
        // If nobody waits any more the child ends as it is dropped.
        let _ = tell.send(child());
    }))?;
    told.await.unwrap_or_else(|_| Err(Trouble::failed("the thread that starts programs has ended")))
}

fn hand_over(start: Start) -> Result<(), Trouble> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let start = match thread.as_ref() {
        None => start,
        Some(way) => match way.send(start) {
            Ok(()) => return Ok(()),
            Err(mpsc::SendError(start)) => start,
        },
    };
    let (way, starts) = mpsc::channel::<Start>();
    let run = move || starts.into_iter().for_each(|start| start());
    let spawned = std::thread::Builder::new().name("programs".to_owned()).spawn(run);
    spawned.map_err(|error| Trouble::unreachable(format!("no thread can be started: {error}")))?;
    // The thread has just begun to listen.
    let _ = way.send(start);
    *thread = Some(way);
    Ok(())
}
