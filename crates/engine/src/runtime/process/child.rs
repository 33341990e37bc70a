//! One child process: given one message at a time, watched, and never left behind.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, sync::Arc, time::Duration};

use flowline_model::Fault;
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout},
    sync::mpsc,
    time::Instant,
};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{
    post::{Parcel, Post},
    protocol::{self, Answer, LONGEST_LINE, Said},
    seat::Seat,
};
use crate::runtime::{
    Ending,
    lines::{Lines, LogTarget},
};

/// How long a child may take to end once it was asked to by a signal.
const AFTER_SIGNAL: Duration = Duration::from_secs(5);
/// How long a child may take to end once its input has.
const AFTER_INPUT: Duration = Duration::from_millis(500);

/// Kills the whole group of a child when it is dropped: nothing that it started stays.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may have ended already.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// A child and the two ways to it.
struct Running {
    child: Child,
    group: Group,
    stdin: ChildStdin,
    stdout: FramedRead<ChildStdout, LinesCodec>,
    seat: Arc<Seat>,
    log: Lines,
    post: Arc<Post>,
    /// Whether it ever said a word of the protocol.
    spoke: bool,
}

/// How a child's work came to its end.
enum End {
    /// By itself.
    Itself,
    /// It was told to.
    Told,
    /// It broke the rules and was killed: why.
    Broke(String),
}

/// Runs a child until it ends; how it ended.
pub(super) async fn run(mut child: Child, post: Arc<Post>, seat: Arc<Seat>, log: LogTarget) -> Ending {
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Ending::lost("its input and output could not be opened");
    };
    let stderr = tokio::spawn(read_errors(stderr, Lines::new(log.clone())));
    let stdout = FramedRead::new(stdout, LinesCodec::new_with_max_length(LONGEST_LINE));
    let group = Group::of(&child);
    let log = Lines::new(log);
    let mut running = Running { child, group, stdin, stdout, seat, log, post, spoke: false };
    let end = running.work().await;
    if matches!(end, End::Itself) && !running.spoke {
        running.post.was_silent();
    }
    let ending = running.finish(end).await;
    let _ = tokio::time::timeout(AFTER_INPUT, stderr).await;
    ending
}

async fn read_errors(mut stderr: impl AsyncRead + Unpin, mut lines: Lines) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        lines.take(&buffer[..count]);
    }
    lines.finish();
}

impl Running {
    async fn work(&mut self) -> End {
        let post = Arc::clone(&self.post);
        if let Some(end) = self.settle().await {
            return end;
        }
        self.seat.takes(true);
        // One message at a time: the next is given once this one is done.
        let (desk, mut parcels) = mpsc::channel(1);
        post.open(desk.clone());
        let end = loop {
            let parcel = tokio::select! {
                biased;
                () = self.seat.kill.cancelled() => break End::Told,
                () = self.seat.stop.cancelled() => break End::Told,
                line = self.stdout.next() => match line {
                    Some(Ok(line)) => {
                        self.log.take(format!("(outside of a message) {line}\n").as_bytes());
                        continue;
                    }
                    Some(Err(error)) => break End::Broke(error.to_string()),
                    None => break End::Itself,
                },
                Some(parcel) = parcels.recv() => parcel,
            };
            if let Some(end) = self.deliver(parcel).await {
                break end;
            }
            post.release(desk.clone());
        };
        parcels.close();
        self.seat.takes(false);
        post.close();
        end
    }

    /// Waits until it says that it is ready, or has been up for a moment: one that ends at once is
    /// given nothing.
    async fn settle(&mut self) -> Option<End> {
        let settled = Instant::now() + self.post.settled();
        loop {
            tokio::select! {
                () = self.seat.kill.cancelled() => return Some(End::Told),
                () = self.seat.stop.cancelled() => return Some(End::Told),
                () = tokio::time::sleep_until(settled) => return None,
                line = self.stdout.next() => match line {
                    Some(Ok(line)) if matches!(protocol::read(&line), Ok(Said::Ready(true))) => {
                        self.has_spoken();
                        return None;
                    }
                    Some(Ok(line)) => self.log.take(format!("(outside of a message) {line}\n").as_bytes()),
                    Some(Err(error)) => return Some(End::Broke(error.to_string())),
                    None => return Some(End::Itself),
                },
            }
        }
    }

    /// Gives it a message and brings back the answer; an end if it cannot go on.
    async fn deliver(&mut self, parcel: Parcel) -> Option<End> {
        let Parcel { line, until, answer } = parcel;
        self.seat.holds(true);
        let kill = self.seat.kill.clone();
        let worked = tokio::select! {
            biased;
            () = kill.cancelled() => Err((self.thrown_out(), End::Told)),
            worked = tokio::time::timeout_at(until, self.converse(&line)) => match worked {
                Ok(worked) => worked,
                Err(_) => {
                    let message = "the attempt took longer than the step's `timeout`; the program was killed";
                    Err((Fault::retry("timeout", message), End::Broke("it took too long for a message".to_owned())))
                }
            },
        };
        let (result, end) = match worked {
            Ok(result) => (result, None),
            Err((fault, end)) => (Err(fault), Some(end)),
        };
        self.seat.holds(false);
        // Nobody may wait for it any more.
        let _ = answer.send(match &end {
            Some(End::Itself) => Err(self.lost().await),
            _ => result,
        });
        end
    }

    /// Why it is gone, as far as is known at once.
    async fn lost(&mut self) -> Fault {
        match tokio::time::timeout(AFTER_INPUT, self.child.wait()).await {
            Ok(Ok(status)) => explain(status).fault,
            _ => Ending::lost("it closed its output").fault,
        }
    }

    fn thrown_out(&self) -> Fault {
        let reason = self.seat.reason();
        reason.unwrap_or_else(|| Fault::retry("worker_lost", "the program was stopped before it had finished"))
    }

    /// What it answers; outside, why it can have no more messages.
    async fn converse(&mut self, line: &str) -> Result<Result<Answer, Fault>, (Fault, End)> {
        let broke = |fault: Fault| (fault.clone(), End::Broke(fault.message));
        let mut answer = Answer::default();
        let mut unwritten = line.as_bytes();
        loop {
            let line = self.exchange(&mut unwritten).await?;
            let said = protocol::read(&line).map_err(broke)?;
            self.has_spoken();
            match said {
                Said::Done(true) | Said::Fault(_) if !unwritten.is_empty() => {
                    let text = "the program answered before it had read the message to its end";
                    return Err(broke(Fault::reject("program_protocol", text)));
                }
                Said::Done(true) => return Ok(Ok(answer)),
                Said::Fault(failed) => return Ok(Err(failed.into())),
                Said::Emit(emitted) => answer.emit(emitted, line.len()).map_err(broke)?,
                Said::Snapshot(snapshot) => answer.snapshot = Some(snapshot),
                Said::Log(text) => self.log.take(format!("{text}\n").as_bytes()),
                Said::Ready(_) | Said::Done(false) => {}
            }
        }
    }

    /// The next line that it says, while it is given what it has not yet read: neither side waits
    /// for the other.
    async fn exchange(&mut self, unwritten: &mut &[u8]) -> Result<String, (Fault, End)> {
        let itself = || (Fault::retry("worker_lost", "the program ended"), End::Itself);
        loop {
            tokio::select! {
                line = self.stdout.next() => return match line {
                    Some(Ok(line)) => Ok(line),
                    Some(Err(error)) => {
                        let text =
                            format!("a line of the program cannot be read: {error}; at most {LONGEST_LINE} bytes");
                        Err((Fault::reject("program_protocol", text.clone()), End::Broke(text)))
                    }
                    None => Err(itself()),
                },
                written = self.stdin.write(unwritten), if !unwritten.is_empty() => match written {
                    Ok(count) => *unwritten = &unwritten[count..],
                    Err(_) => return Err(itself()),
                },
            }
        }
    }

    fn has_spoken(&mut self) {
        self.spoke = true;
        self.post.spoke();
    }

    /// Brings it to its end: its input ends, then it is asked, then it is killed with all that it
    /// started.
    async fn finish(mut self, end: End) -> Ending {
        drop(self.stdin);
        if let End::Broke(why) = end {
            self.group.signal(Signal::KILL);
            let _ = self.child.wait().await;
            return Ending::lost(format!("it was killed: {why}"));
        }
        if tokio::time::timeout(AFTER_INPUT, self.child.wait()).await.is_err() {
            self.group.signal(Signal::TERM);
        }
        tokio::select! {
            _ = self.child.wait() => {}
            () = self.seat.kill.cancelled() => {}
            () = tokio::time::sleep(AFTER_SIGNAL) => {}
        }
        self.group.signal(Signal::KILL);
        match self.child.wait().await {
            Ok(status) => explain(status),
            Err(error) => Ending::lost(error.to_string()),
        }
    }
}

/// What an exit means.
fn explain(status: ExitStatus) -> Ending {
    Ending::lost(match (status.code(), status.signal()) {
        (Some(0), _) => "the program ended by itself, without an error: it should read until its input ends".to_owned(),
        (Some(code @ 126..=127), _) => {
            format!("the program could not be started (exit code {code}): the step's log says why")
        }
        (Some(code), _) => format!("the program failed (exit code {code}): the step's log may say why"),
        (None, Some(9)) => "the program was killed (SIGKILL): from outside, or for lack of memory".to_owned(),
        (None, Some(signal)) => format!("the program was ended by signal {signal}"),
        (None, None) => "the program ended".to_owned(),
    })
}
