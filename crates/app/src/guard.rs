//! The guard of the API: who may ask, and which browsers may not.
//!
//! On loopback nobody needs an account, so a web page that somebody visits must not reach the
//! API: its name for this machine is not ours (DNS rebinding), and its origin is another.
//! Webhooks do not come past here; they verify their senders themselves.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use subtle::ConstantTimeEq as _;

use crate::{cli::Token, problem_details::ProblemDetails};

/// Decides who may use the API.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    token: Option<Token>,
    loopback: bool,
}

impl Guard {
    /// The guard of a server that listens on this address.
    pub(crate) fn new(address: SocketAddr, token: Option<Token>) -> Self {
        Self { token, loopback: address.ip().is_loopback() }
    }

    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), ProblemDetails> {
        let forbidden = |code, detail| Err(ProblemDetails::new(StatusCode::FORBIDDEN, code, detail));
        let host = one(headers, header::HOST);
        if self.loopback && !host.is_some_and(is_loopback) {
            return forbidden("foreign_host", "the Host header does not name this machine's loopback address");
        }
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        if changes && headers.contains_key(header::ORIGIN) && !same_origin(headers, host) {
            return forbidden("foreign_origin", "a page of another origin may not change anything here");
        }
        match &self.token {
            Some(token) if !bears(headers, token) => Err(ProblemDetails::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "send the server's token as `Authorization: Bearer <token>`",
            )),
            _ => Ok(()),
        }
    }
}

/// Lets a request through, or answers it.
pub(crate) async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The value of a header that stands there exactly once.
fn one(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a `Host` header names this machine and nothing else.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn same_origin(headers: &HeaderMap, host: Option<&str>) -> bool {
    let origin = one(headers, header::ORIGIN).and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some(("http" | "https", origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// Compares in a time that does not tell how much of a guess was right.
fn bears(headers: &HeaderMap, token: &Token) -> bool {
    let given = one(headers, header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    given.is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case("bearer") && bool::from(given.trim().as_bytes().ct_eq(token.expose().as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(guard: &Guard, method: Method, headers: &[(header::HeaderName, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        guard.check(&method, &map).err().map_or(200, |problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn only_this_machine_and_its_own_pages_are_let_in() {
        let guard = Guard::new("127.0.0.1:7700".parse().unwrap(), None);
        let host = |host| (header::HOST, host);
        for good in ["localhost:7700", "127.0.0.1:7700", "[::1]:7700", "LOCALHOST"] {
            assert_eq!(verdict(&guard, Method::GET, &[host(good)]), 200, "{good}");
        }
        for bad in ["evil.example:7700", "127.0.0.1.evil.example", "", "localhost.evil.example", "10.0.0.1"] {
            assert_eq!(verdict(&guard, Method::GET, &[host(bad)]), 403, "{bad}");
        }
        let own = host("localhost:7700");
        let origin = |origin| (header::ORIGIN, origin);
        assert_eq!(verdict(&guard, Method::POST, std::slice::from_ref(&own)), 200);
        assert_eq!(verdict(&guard, Method::POST, &[own.clone(), origin("http://localhost:7700")]), 200);
        for bad in ["http://evil.example", "null", "http://localhost:9999"] {
            assert_eq!(verdict(&guard, Method::POST, &[own.clone(), origin(bad)]), 403, "{bad}");
        }
        assert_eq!(verdict(&guard, Method::GET, &[own.clone(), own]), 403, "two hosts");
    }

    #[test]
    fn a_token_is_demanded_as_it_is() {
        let token = Token::from("a-token-of-sixteen".to_owned());
        let guard = Guard::new("0.0.0.0:7700".parse().unwrap(), Some(token));
        let with = |value| verdict(&guard, Method::GET, &[(header::AUTHORIZATION, value)]);
        assert_eq!(with("Bearer a-token-of-sixteen"), 200);
        assert_eq!(with("bearer a-token-of-sixteen"), 200);
        for bad in ["Bearer a-token-of-sixtee", "Bearer ", "a-token-of-sixteen", "Basic a-token-of-sixteen"] {
            assert_eq!(with(bad), 401, "{bad}");
        }
        assert_eq!(verdict(&guard, Method::GET, &[]), 401);
    }
}
