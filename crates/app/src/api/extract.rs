//! What requests carry, read with answers that say what does not fit.

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::problem_details::ProblemDetails;

/// A body of JSON.
pub(super) struct Body<T>(pub(super) T);
/// The query of the address.
pub(super) struct Asked<T>(pub(super) T);
/// A part of the path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemDetails> {
        let Json(body) = Json::from_request(request, state).await.map_err(|rejection: JsonRejection| {
            let code = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
                StatusCode::UNSUPPORTED_MEDIA_TYPE => "not_json",
                _ => "bad_request",
            };
            // JSON of another shape than asked for is a bad request like any other.
            let status = match rejection.status() {
                StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                status => status,
            };
            ProblemDetails::new(status, code, rejection.body_text())
        })?;
        Ok(Self(body))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemDetails> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection: QueryRejection| ProblemDetails::bad_request(rejection.body_text()))?;
        Ok(Self(query))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemDetails> {
        let Path(name) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection: PathRejection| ProblemDetails::bad_request(rejection.body_text()))?;
        Ok(Self(name))
    }
}

/// How many entries a list gives: 50, or 1 to 1000 if that is asked for.
pub(super) fn page(limit: Option<u32>) -> Result<u32, ProblemDetails> {
    match limit.unwrap_or(50) {
        limit @ 1..=1000 => Ok(limit),
        limit => Err(ProblemDetails::bad_request(format!("`limit` is a number from 1 to 1000, not {limit}"))),
    }
}
