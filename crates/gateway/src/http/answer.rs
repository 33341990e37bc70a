//! Answers: JSON, and problems in the form that the components' clients read.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::objects::ObjectError;

/// What handlers return.
pub(crate) type Answer = Result<Response, Response>;

pub(crate) fn ok(value: Value) -> Response {
    Json(value).into_response()
}

/// A problem: `error` is what the components' clients show.
pub(crate) fn problem(status: StatusCode, text: &str) -> Response {
    let title = match status {
        StatusCode::CONFLICT => "ConflictError",
        StatusCode::NOT_FOUND => "NotFoundError",
        _ => status.canonical_reason().unwrap_or("Error"),
    };
    (status, Json(json!({ "error": text, "status": status.as_u16(), "title": title }))).into_response()
}

/// Something of ours failed: the client may try again.
pub(crate) fn trouble(what: &str, error: &dyn std::fmt::Display) -> Response {
    tracing::error!(%error, "{what}");
    problem(StatusCode::SERVICE_UNAVAILABLE, what)
}

impl IntoResponse for ObjectError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Missing => StatusCode::NOT_FOUND,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyPairs => StatusCode::BAD_REQUEST,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Io(error) => return trouble("an object could not be stored or read", &error),
        };
        problem(status, &self.to_string())
    }
}
