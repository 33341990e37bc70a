//! Results of service calls: a link takes one, and answers exactly 200.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    answer::{Answer, Problem, ok, problem},
    door::basic,
};
use crate::{gateway::Shared, service_call::ServiceResult};

/// The credentials in a link.
pub(super) struct Secret(String);

impl FromRequestParts<Arc<Shared>> for Secret {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        let credentials = basic(parts).ok_or_else(|| problem(StatusCode::UNAUTHORIZED, "no credentials"))?;
        Ok(Self(credentials.1))
    }
}

pub(super) async fn post(
    State(shared): State<Arc<Shared>>,
    Secret(secret): Secret,
    Path(id): Path<Uuid>,
    Json(result): Json<ServiceResult>,
) -> Answer {
    if !shared.results.is_expected(id, &secret) {
        return Err(problem(StatusCode::NOT_FOUND, "no result is waited for here"));
    }
    shared.results.arrived(id, result);
    Ok(ok(json!({})))
}
