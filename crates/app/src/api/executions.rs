//! Executions: everything that came from one emission of a trigger.

use axum::{Json, extract::State};
use flowline_engine::{Execution, ExecutionDetail, ExecutionFilter, ExecutionStatus};
use flowline_model::{ExecutionId, FlowName};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Api,
    extract::{Asked, Named, page},
};
use crate::problem_details::ProblemDetails;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    flow: Option<FlowName>,
    status: Option<ExecutionStatus>,
    before: Option<ExecutionId>,
    limit: Option<u32>,
}

#[derive(Serialize)]
pub(super) struct Executions {
    executions: Vec<Execution>,
    /// What `before` gives the next page; none if there is no further one.
    next: Option<ExecutionId>,
}

pub(super) async fn list(State(api): State<Api>, Asked(which): Asked<Which>) -> Answer<Executions> {
    let limit = page(which.limit)?;
    let filter = ExecutionFilter { flow: which.flow, status: which.status, before: which.before, limit };
    let executions = api.engine.records().executions(&filter).await?;
    let full = executions.len() == limit as usize;
    let next = executions.last().filter(|_| full).map(|execution| execution.id);
    Ok(Json(Executions { executions, next }))
}

pub(super) async fn show(State(api): State<Api>, Named(id): Named<ExecutionId>) -> Answer<ExecutionDetail> {
    let found = api.engine.records().execution(id).await?;
    found.map(Json).ok_or_else(|| ProblemDetails::not_found(format!("there is no execution {id}")))
}
