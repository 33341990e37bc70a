//! Answers: JSON, and problems in the form that the components' clients read.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::objects::ObjectError;

/// What handlers return.
pub(crate) type Answer = Result<Response, Problem>;

pub(crate) fn ok(value: Value) -> Response {
    Json(value).into_response()
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    text: String,
}

pub(crate) fn problem(status: StatusCode, text: impl Into<String>) -> Problem {
    Problem { status, text: text.into() }
}

/// Something of ours failed: the client may try again.
pub(crate) fn trouble(what: &str, error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "{what}");
    problem(StatusCode::SERVICE_UNAVAILABLE, what)
}

impl IntoResponse for Problem {
    /// `error` is what the components' clients show.
    fn into_response(self) -> Response {
        let title = match self.status {
            StatusCode::CONFLICT => "ConflictError",
            StatusCode::NOT_FOUND => "NotFoundError",
            status => status.canonical_reason().unwrap_or("Error"),
        };
        let body = json!({ "error": self.text, "status": self.status.as_u16(), "title": title });
        (self.status, Json(body)).into_response()
    }
}

impl From<ObjectError> for Problem {
    fn from(error: ObjectError) -> Self {
        let status = match &error {
            ObjectError::Missing => StatusCode::NOT_FOUND,
            ObjectError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ObjectError::TooManyPairs => StatusCode::BAD_REQUEST,
            ObjectError::Full => StatusCode::INSUFFICIENT_STORAGE,
            ObjectError::Io(error) => return trouble("an object could not be stored or read", error),
        };
        problem(status, error.to_string())
    }
}
