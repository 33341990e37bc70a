//! The door: who a request comes from. Basic credentials for the API, a token for objects.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header::AUTHORIZATION, request::Parts},
};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::answer::{Problem, problem};
use crate::{gateway::Shared, guests::Guest};

/// A worker that came with its API credentials.
pub(crate) struct ApiGuest(pub(crate) Arc<Guest>);

/// A worker that came with its token for objects.
pub(crate) struct ObjectGuest(pub(crate) Arc<Guest>);

fn authorization(parts: &Parts, scheme: &str) -> Option<String> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (found, rest) = value.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim().to_owned())
}

/// User and password of a request.
pub(crate) fn basic(parts: &Parts) -> Option<(String, String)> {
    let decoded = BASE64_STANDARD.decode(authorization(parts, "basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn refused() -> Problem {
    problem(StatusCode::UNAUTHORIZED, "these credentials are not known here")
}

impl FromRequestParts<Arc<Shared>> for ApiGuest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let (user, password) = basic(parts).ok_or_else(refused)?;
        let guest = shared.guests.enter(&user, &password, |secrets| &secrets.api).ok_or_else(refused)?;
        guest.step.heard(&guest.name);
        Ok(Self(guest))
    }
}

impl FromRequestParts<Arc<Shared>> for ObjectGuest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let token = authorization(parts, "bearer").ok_or_else(refused)?;
        let (worker, secret) = token.split_once(':').ok_or_else(refused)?;
        let guest = shared.guests.enter(worker, secret, |secrets| &secrets.objects).ok_or_else(refused)?;
        guest.step.heard(&guest.name);
        Ok(Self(guest))
    }
}

impl ApiGuest {
    /// Only one's own flow.
    pub(crate) fn of_flow(self, flow: &str) -> Result<Arc<Guest>, Problem> {
        if self.0.spec().queue.flow.as_str() == flow {
            return Ok(self.0);
        }
        Err(problem(StatusCode::FORBIDDEN, "a worker reaches its own flow only"))
    }

    /// Only one's own step.
    pub(crate) fn of_step(self, flow: &str, step: &str) -> Result<Arc<Guest>, Problem> {
        if self.0.spec().queue.step.as_str() == step {
            return self.of_flow(flow);
        }
        Err(problem(StatusCode::FORBIDDEN, "a worker reaches its own step only"))
    }
}
