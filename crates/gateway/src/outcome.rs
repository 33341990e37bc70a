//! From what was gathered to what the engine is told, in as many parts as it takes.

use std::time::Duration;

use flowline_model::{Fault, FaultKind, Message};
use flowline_sdk::{Context, Contract, Produced};
use serde_json::Value;

use crate::{
    amqp::Verdict,
    board::Ended,
    gathered::{Failure, Gathered, SNAPSHOT},
    marks,
    spool::{End, Mark, SpoolError},
    step::Step,
};

/// How often a spool is tried to be made durable, and how long between.
const SEALINGS: u32 = 120;
const BETWEEN_SEALINGS: Duration = Duration::from_millis(500);

impl Step {
    /// See [`flowline_sdk::Remote::run`].
    pub(crate) async fn run(&self, cx: &Context, config: Value, input: &Message) -> Result<Produced, Fault> {
        if let Some(mark) = self.mark(cx).await? {
            return self.go_on(cx, mark).await;
        }
        let (ended, gathered) = self.hand_over(cx, config, input).await?;
        self.conclude(cx, ended, gathered).await
    }

    async fn conclude(&self, cx: &Context, ended: Ended, mut gathered: Gathered) -> Result<Produced, Fault> {
        let verdict = match ended {
            Ended::Lost(reason) => return Err(reason),
            Ended::Settled(verdict) => verdict,
        };
        if let Some((reason, after)) = gathered.rebound.take() {
            if gathered.has_emits() {
                cx.log("what the component emitted before it asked for the message again is not kept");
            }
            return Err(Fault::retry("rebound", or(&reason, "the component asked for the message again")).after(after));
        }
        let failure = gathered.failure.take().or_else(|| refusal(verdict, gathered.has_emits()));
        if let Some(failure) = &failure
            && !gathered.has_emits()
        {
            return Err(fault(failure));
        }
        if verdict == Verdict::Requeue {
            return Err(Fault::retry("returned", "the worker gave the message back"));
        }
        if let Some(reply) = gathered.reply.take().or_else(|| gathered.error_reply.take()) {
            cx.reply(reply);
        }
        let before = if gathered.updates_snapshot() { cx.state(SNAPSHOT).await? } else { None };
        let end = End { state: gathered.state(before), fault: failure.map(|failure| self.after_emits(&failure)) };
        if gathered.spool.is_none() && end.fault.is_none() {
            apply(cx, end.state)?;
            let emits = std::mem::take(&mut gathered.emits).into_iter().map(Into::into).collect();
            return Ok(Produced { emits, more: false });
        }
        let mark = self.seal(cx, &mut gathered, end).await?;
        self.shared.marks.insert(&self.spec.queue, cx.place().message, &mark.file);
        self.go_on(cx, mark).await
    }

    /// What becomes of a message that failed after it had emitted: a dead letter, because what was
    /// emitted must not be emitted again. Our own worker says so only of a poll whose snapshot is
    /// behind what it emitted: the next attempt goes on from there.
    fn after_emits(&self, failure: &Failure) -> Fault {
        match &failure.fault {
            Some(fault) if self.spec.contract == Contract::Worker => fault.clone(),
            Some(fault) => Fault { kind: FaultKind::Reject, outage: false, after: None, ..fault.clone() },
            None => Fault::reject("component_error", &failure.text),
        }
    }

    /// Makes a spool durable, however long the disk has no room: the work is done, and doing it
    /// again would repeat what it did outside.
    async fn seal(&self, cx: &Context, gathered: &mut Gathered, end: End) -> Result<Mark, Fault> {
        let mut end = Some(end);
        let mut sealing = 0;
        loop {
            let error = match self.try_seal(cx, gathered, &mut end).await {
                Ok(mark) => return Ok(mark),
                Err(error) => error,
            };
            sealing += 1;
            if sealing == 1 {
                tracing::error!(queue = %self.spec.queue, %error, "waiting for the disk");
            }
            if sealing > SEALINGS {
                let text = format!("what the component emitted could not be stored: {error}");
                return Err(Fault::retry("spool_not_written", text));
            }
            tokio::time::sleep(BETWEEN_SEALINGS).await;
        }
    }

    async fn try_seal(&self, cx: &Context, gathered: &mut Gathered, end: &mut Option<End>) -> Result<Mark, SpoolError> {
        gathered.spill(&self.shared.spools, &self.spec.queue, cx.place().message).await?;
        let Some(spool) = gathered.spool.as_mut() else {
            return Err(SpoolError::Io(std::io::Error::other("there is no spool")));
        };
        if let Some(end) = end.take() {
            spool.end(&end)?;
        }
        spool.seal().await
    }

    /// The next part of a sealed spool.
    async fn go_on(&self, cx: &Context, mark: Mark) -> Result<Produced, Fault> {
        let limits = &self.shared.settings.limits;
        let key = marks::key(cx.place().message);
        let read = self.shared.spools.read(&self.spec.queue, &mark, limits.emits, limits.emit_bytes).await;
        let chunk = read.map_err(|error| {
            let text = format!("what a worker emitted for this message was spooled and cannot be read: {error}");
            Fault::retry("spool_not_read", text)
        })?;
        let emits: Vec<_> = chunk.emits.into_iter().map(Into::into).collect();
        match chunk.end {
            Some(End { fault: Some(fault), state: _ }) if emits.is_empty() => {
                cx.forget(key);
                self.done_with(cx.place().message, mark.file);
                Err(fault)
            }
            Some(End { fault: None, state }) => {
                apply(cx, state)?;
                cx.forget(key);
                self.done_with(cx.place().message, mark.file);
                Ok(Produced { emits, more: false })
            }
            end => {
                // With a fault still to come: what was emitted counts, and so does the snapshot.
                apply(cx, end.map(|end| end.state).unwrap_or_default())?;
                cx.remember(key, Mark { at: chunk.next, ..mark })?;
                Ok(Produced { emits, more: true })
            }
        }
    }
}

fn apply(cx: &Context, state: Vec<(String, Option<Value>)>) -> Result<(), Fault> {
    for (key, value) in state {
        match value {
            Some(value) => cx.remember(key, value)?,
            None => cx.forget(key),
        }
    }
    Ok(())
}

fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

/// A refusal without an error, after it had emitted: worth a dead letter.
fn refusal(verdict: Verdict, has_emits: bool) -> Option<Failure> {
    let text = "the worker refused the message without saying why: it could not decrypt or read it";
    let refused = verdict == Verdict::Reject;
    refused.then(|| Failure { text: text.to_owned(), fault: (!has_emits).then(|| Fault::reject("undecodable", text)) })
}

fn fault(failure: &Failure) -> Fault {
    failure.fault.clone().unwrap_or_else(|| Fault::retry("component_error", &failure.text))
}
