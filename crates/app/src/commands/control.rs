//! `flowline trigger`, `pause`, `resume`, `drain` and `discard`: verbs on the flows of a server.

use std::process::ExitCode;

use flowline_engine::FlowStatus;
use flowline_queue::QueueDepth;
use serde::Deserialize;
use serde_json::{Value, json};

use super::print_json;
use crate::{
    cli::{Control, Discard, Drain, Source, Target, Trigger},
    client::Client,
    failure::{Failure, Outcome},
    lookup,
    render::count,
};

/// A request without a body.
const NO_BODY: Option<&Value> = None;

pub(super) async fn trigger(options: Trigger) -> Outcome {
    let target = Target { flow: options.flow, step: None };
    change(&options.source, &target, "run", "runs now").await
}

pub(super) async fn pause(options: Control) -> Outcome {
    change(&options.source, &options.target, "pause", "is paused: what comes waits").await
}

pub(super) async fn resume(options: Control) -> Outcome {
    change(&options.source, &options.target, "resume", "goes on").await
}

pub(super) async fn drain(options: Drain) -> Outcome {
    let target = Target { flow: options.flow, step: None };
    change(&options.source, &target, "drain", "takes no new input and finishes what waits").await
}

async fn change(source: &Source, target: &Target, verb: &str, done: &str) -> Outcome {
    let client = lookup::running_server(source).await?;
    let status: FlowStatus = client.post(&path(target, verb), NO_BODY).await?;
    if source.json {
        return print_json(&status);
    }
    anstream::println!("{target} {done}");
    Ok(ExitCode::SUCCESS)
}

fn path(target: &Target, verb: &str) -> String {
    let step = target.step.as_ref().map_or_else(String::new, |step| format!("?step={step}"));
    format!("flows/{}/{verb}{step}", target.flow)
}

#[derive(Deserialize)]
struct Discarded {
    discarded: u64,
}

pub(super) async fn discard(options: Discard) -> Outcome {
    let client = lookup::running_server(&options.source).await?;
    if !options.yes {
        let waiting = waiting(&client, &options.target).await?;
        confirm(&format!("Throw away {} that {} for {}?", count_of(waiting), waits(waiting), options.target))?;
    }
    let Discarded { discarded } = client.post(&path(&options.target, "discard"), NO_BODY).await?;
    if options.source.json {
        return print_json(&json!({ "discarded": discarded }));
    }
    anstream::println!("{} of {} thrown away", count_of(discarded), options.target);
    Ok(ExitCode::SUCCESS)
}

fn count_of(messages: u64) -> String {
    count(usize::try_from(messages).unwrap_or(usize::MAX), "message")
}

fn waits(messages: u64) -> &'static str {
    if messages == 1 { "waits" } else { "wait" }
}

/// How many messages wait for a flow or a step, but for the ticks of its schedule.
async fn waiting(client: &Client, target: &Target) -> Outcome<u64> {
    let flow: FlowStatus = client.get(&format!("flows/{}", target.flow)).await?;
    let queues: Vec<QueueDepth> = client.list("queues", &[]).await?;
    let meant = queues.iter().filter(|depth| {
        depth.queue.flow == target.flow
            && depth.queue.step != flow.trigger
            && target.step.as_ref().is_none_or(|step| *step == depth.queue.step)
    });
    Ok(meant.map(|depth| depth.ready + depth.delayed).sum())
}

/// Asks whether to go on; without a terminal to ask at, `--yes` must say so.
pub(super) fn confirm(question: &str) -> Outcome<()> {
    use std::io::{IsTerminal as _, Write as _};
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{question} There is no terminal to ask at")).hint("say so with `--yes`"));
    }
    anstream::eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer).is_ok();
    if read && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::new("nothing was changed"))
}
