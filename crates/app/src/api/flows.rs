//! Flows: how they stand, and the verbs on them.

use axum::{Json, extract::State, http::StatusCode};
use flowline_engine::{EngineError, FlowStatus};
use flowline_model::{FlowName, Problem, StepId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Api,
    extract::{Asked, Body, Named},
};
use crate::problem_details::ProblemDetails;

#[derive(Serialize)]
pub(super) struct Flows {
    flows: Vec<FlowStatus>,
}

/// Which step of the flow; none means all of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfStep {
    step: Option<StepId>,
}

#[derive(Serialize)]
pub(super) struct Discarded {
    discarded: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    document: String,
}

#[derive(Serialize)]
pub(super) struct Problems {
    problems: Vec<Problem>,
}

pub(super) async fn list(State(api): State<Api>) -> Json<Flows> {
    Json(Flows { flows: api.engine.flows() })
}

pub(super) async fn show(State(api): State<Api>, Named(flow): Named<FlowName>) -> Answer<FlowStatus> {
    status(&api, &flow)
}

fn status(api: &Api, flow: &FlowName) -> Answer<FlowStatus> {
    let found = api.engine.flows().into_iter().find(|status| status.name == *flow);
    found.map(Json).ok_or_else(|| EngineError::NoFlow(flow.clone()).into())
}

pub(super) async fn pause(
    State(api): State<Api>,
    Named(flow): Named<FlowName>,
    Asked(of): Asked<OfStep>,
) -> Answer<FlowStatus> {
    api.engine.pause(&flow, of.step.as_ref()).await?;
    status(&api, &flow)
}

pub(super) async fn resume(
    State(api): State<Api>,
    Named(flow): Named<FlowName>,
    Asked(of): Asked<OfStep>,
) -> Answer<FlowStatus> {
    api.engine.resume(&flow, of.step.as_ref()).await?;
    status(&api, &flow)
}

pub(super) async fn drain(State(api): State<Api>, Named(flow): Named<FlowName>) -> Answer<FlowStatus> {
    api.engine.drain(&flow).await?;
    status(&api, &flow)
}

pub(super) async fn discard(
    State(api): State<Api>,
    Named(flow): Named<FlowName>,
    Asked(of): Asked<OfStep>,
) -> Answer<Discarded> {
    Ok(Json(Discarded { discarded: api.engine.discard(&flow, of.step.as_ref()).await? }))
}

pub(super) async fn run(
    State(api): State<Api>,
    Named(flow): Named<FlowName>,
) -> Result<(StatusCode, Json<FlowStatus>), ProblemDetails> {
    api.engine.run_now(&flow).await?;
    Ok((StatusCode::ACCEPTED, status(&api, &flow)?))
}

pub(super) async fn check(State(api): State<Api>, Body(body): Body<Document>) -> Json<Problems> {
    Json(Problems { problems: api.engine.check(&body.document).err().unwrap_or_default() })
}
