//! `flowline flows`: the flows that a server runs.

use std::process::ExitCode;

use flowline_engine::{FlowStatus, StepState};

use super::print_json;
use crate::{
    cli::Flows,
    failure::Outcome,
    lookup,
    table::{self, Column},
};

pub(super) async fn run(options: Flows) -> Outcome {
    let client = lookup::running_server(&options.source).await?;
    let flows: Vec<FlowStatus> = client.list("flows", &[]).await?;
    if options.source.json {
        return print_json(&flows);
    }
    if flows.is_empty() {
        anstream::println!("no flows");
        return Ok(ExitCode::SUCCESS);
    }
    let columns = ["FLOW", "VERSION", "STATE", "TRIGGER", "ALERTS"];
    let columns =
        columns.map(|heading| if heading == "VERSION" { Column::Right(heading) } else { Column::Left(heading) });
    table::print(&columns, flows.iter().map(row));
    Ok(ExitCode::SUCCESS)
}

fn row(flow: &FlowStatus) -> Vec<String> {
    let alerts = flow.steps.iter().filter_map(|step| {
        let alert = step.alert.as_ref().map(|alert| &alert.message);
        let trouble = step.workers.as_ref().and_then(|workers| workers.trouble.as_ref());
        // What went wrong before a worker stood again is over.
        let trouble = trouble.filter(|trouble| trouble.failures > 0).map(|trouble| &trouble.message);
        Some(format!("{}: {}", step.id, table::cut(alert.or(trouble)?, 60)))
    });
    let alerts: Vec<String> = alerts.collect();
    vec![flow.name.to_string(), flow.version.to_string(), state(flow), trigger(flow), alerts.join("; ")]
}

fn state(flow: &FlowStatus) -> String {
    let probing = flow.steps.iter().any(|step| step.state == StepState::Probing);
    let paused = flow.steps.iter().any(|step| step.state == StepState::Paused);
    let words = match flow {
        FlowStatus { paused: true, .. } => "paused",
        FlowStatus { active: false, .. } => "retired",
        FlowStatus { draining: true, .. } => "draining",
        _ if paused => "running, a step paused",
        _ if probing => "running, a target out of reach",
        _ => "running",
    };
    words.to_owned()
}

/// How a flow begins: its webhook or its schedule.
pub(super) fn trigger(flow: &FlowStatus) -> String {
    let hook = flow.hook.as_ref().map(|path| format!("/hook/{path}"));
    hook.or_else(|| flow.schedule.clone()).unwrap_or_else(|| flow.trigger.to_string())
}
