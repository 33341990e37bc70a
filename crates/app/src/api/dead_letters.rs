//! Dead letters: look at them, put them back, throw them away.

use axum::{Json, extract::State};
use flowline_model::{FlowName, StepId};
use flowline_queue::{DeadLetter, DeadLetterFilter};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Answer, Api,
    extract::{Asked, Body, Named, page},
};
use crate::{
    lookup::{self, Chosen},
    problem_details::ProblemDetails,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    flow: Option<FlowName>,
    step: Option<StepId>,
    code: Option<String>,
    after: Option<u64>,
    limit: Option<u32>,
}

#[derive(Serialize)]
pub(super) struct DeadLetters {
    dead_letters: Vec<DeadLetter>,
    /// What `after` gives the next page; none if there is no further one.
    next: Option<u64>,
}

/// What to replay, and how.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayRequest {
    pub(crate) which: Chosen,
    /// The body to use instead; for one dead letter only.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub(crate) body: Option<Value>,
    /// Go on with the newest version of the flow.
    #[serde(default)]
    pub(crate) newest: bool,
}

/// A value that is there, even if it is null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What to throw away.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiscardRequest {
    pub(crate) which: Chosen,
}

#[derive(Serialize)]
pub(super) struct Replayed {
    replayed: u64,
}

#[derive(Serialize)]
pub(super) struct Discarded {
    discarded: u64,
}

pub(super) async fn list(State(api): State<Api>, Asked(which): Asked<Which>) -> Answer<DeadLetters> {
    let limit = page(which.limit)? as usize;
    let Which { flow, step, code, after, .. } = which;
    let filter = DeadLetterFilter { ids: Vec::new(), flow, step, code, after };
    let dead_letters = api.engine.records().dead_letters(&filter, limit).await?;
    let next = dead_letters.last().filter(|_| dead_letters.len() == limit).map(|letter| letter.id);
    Ok(Json(DeadLetters { dead_letters, next }))
}

pub(super) async fn show(State(api): State<Api>, Named(id): Named<u64>) -> Answer<DeadLetter> {
    let filter = DeadLetterFilter { ids: vec![id], ..DeadLetterFilter::default() };
    let found = api.engine.records().dead_letters(&filter, 1).await?.into_iter().next();
    found.map(Json).ok_or_else(|| ProblemDetails::not_found(format!("there is no dead letter {id}")))
}

pub(super) async fn replay(State(api): State<Api>, Body(request): Body<ReplayRequest>) -> Answer<Replayed> {
    let filter = chosen(request.which)?;
    if request.body.is_some() && filter.ids.len() != 1 {
        return Err(ProblemDetails::bad_request(
            "a body replaces that of exactly one dead letter: name it in `which.ids`",
        ));
    }
    let flows = || api.engine.flows().into_iter().map(|flow| (flow.name, flow.version)).collect();
    let newest = request.newest.then(flows);
    let replayed = lookup::replay(api.engine.records(), filter, request.body, newest).await?;
    Ok(Json(Replayed { replayed }))
}

pub(super) async fn discard(State(api): State<Api>, Body(request): Body<DiscardRequest>) -> Answer<Discarded> {
    let filter = chosen(request.which)?;
    Ok(Json(Discarded { discarded: api.engine.records().discard_dead_letters(&filter).await? }))
}

fn chosen(chosen: Chosen) -> Result<DeadLetterFilter, ProblemDetails> {
    chosen.filter().ok_or_else(|| {
        ProblemDetails::bad_request("name dead letters by `ids`, `flow`, `step` or `code`, or say `\"all\": true`")
    })
}
