//! `flowline executions`: what came from each emission of a trigger.

use std::process::ExitCode;

use flowline_engine::{Attempt, Execution, ExecutionDetail, ExecutionFilter, ExecutionStatus, StepRun};
use flowline_model::{EventKind, ExecutionId};

use super::print_json;
use crate::{
    cli::{Executions, ExecutionsCommand, ExecutionsList, Source},
    failure::Outcome,
    lookup::Lookup,
    table::{self, Column},
};

/// The longest part of a body that is shown.
const LONGEST_BODY: usize = 2_000;

pub(super) async fn run(options: Executions) -> Outcome {
    match options.command {
        None => list(options.list).await,
        Some(ExecutionsCommand::List(options)) => list(options).await,
        Some(ExecutionsCommand::Show { id, source }) => show(id, &source).await,
    }
}

async fn list(options: ExecutionsList) -> Outcome {
    let ExecutionsList { flow, status, limit, before, source } = options;
    let executions = Lookup::open(&source).await?.executions(&ExecutionFilter { flow, status, before, limit }).await?;
    if source.json {
        return print_json(&executions);
    }
    if executions.is_empty() {
        anstream::println!("no executions");
        return Ok(ExitCode::SUCCESS);
    }
    let words = ["EXECUTION", "FLOW", "STATUS"].map(Column::Left);
    let figures = ["VERSION", "DONE", "WAITING", "RETRIED", "DEAD", "AGE", "TOOK"].map(Column::Right);
    table::print(&[words.as_slice(), figures.as_slice()].concat(), executions.iter().map(row));
    if executions.len() == limit as usize {
        let last = executions.last().map(|execution| execution.id.to_string()).unwrap_or_default();
        anstream::eprintln!("there may be more: --before {last}");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(execution: &Execution) -> Vec<String> {
    let counts = [execution.version, execution.done, execution.waiting, execution.retried, execution.dead];
    let took = execution.ended_at.map(|ended| table::lapse(ended.since(execution.started_at)));
    let mut row = vec![execution.id.to_string(), execution.flow.to_string(), status(execution.status).to_owned()];
    row.extend(counts.map(|count| count.to_string()));
    row.push(table::age(execution.started_at, table::now()));
    row.push(took.unwrap_or_else(|| "-".to_owned()));
    row
}

fn status(status: ExecutionStatus) -> &'static str {
    match status {
        ExecutionStatus::Running => "running",
        ExecutionStatus::Done => "done",
        ExecutionStatus::Failed => "failed",
    }
}

async fn show(id: ExecutionId, source: &Source) -> Outcome {
    let ExecutionDetail { execution, steps } = Lookup::open(source).await?.execution(id).await?;
    if source.json {
        return print_json(&ExecutionDetail { execution, steps });
    }
    let Execution { id, flow, version, started_at, ended_at, .. } = &execution;
    anstream::println!("execution {id}");
    anstream::println!("flow      {flow}, version {version}");
    anstream::println!("status    {}", status(execution.status));
    anstream::println!("started   {started_at}");
    if let Some(ended) = ended_at {
        anstream::println!("ended     {ended}, after {}", table::lapse(ended.since(*started_at)));
    }
    steps.iter().for_each(print_step);
    Ok(ExitCode::SUCCESS)
}

fn print_step(run: &StepRun) {
    anstream::println!("\n{}  {}", run.step, run.message);
    let input = run.input.as_ref().map_or_else(|| "(outlived its retention)".to_owned(), body);
    anstream::println!("  input    {input}");
    for attempt in &run.attempts {
        anstream::println!("  {}", happened(attempt));
    }
    if run.attempts.is_empty() {
        anstream::println!("  waiting");
    }
    for output in &run.outputs {
        let to = output.to.as_ref().map_or_else(String::new, |step| format!(" -> {step}"));
        anstream::println!("  output   {}{to}", body(&output.body));
    }
}

fn happened(attempt: &Attempt) -> String {
    let took = table::lapse(attempt.ended_at.since(attempt.started_at));
    let what = match attempt.kind {
        EventKind::Accepted => "accepted",
        EventKind::Done => "done",
        EventKind::Retried => "failed, retried",
        EventKind::DeadLettered => "failed, now a dead letter",
        EventKind::Replayed => "replayed",
        EventKind::Discarded => "thrown away",
    };
    let number = if attempt.attempt > 0 { format!("attempt {}  ", attempt.attempt) } else { String::new() };
    let fault = attempt.fault.as_ref();
    let fault = fault.map_or_else(String::new, |fault| format!(": {} ({})", table::plain(&fault.message), fault.code));
    format!("{number}{}  {took}  {what}{fault}", attempt.started_at)
}

fn body(value: &serde_json::Value) -> String {
    table::cut(&table::plain(&value.to_string()), LONGEST_BODY)
}
