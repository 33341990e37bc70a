//! Faults in words: what an HTTP status or a broken connection means for the message.

use std::time::{Duration, SystemTime};

use flowline_sdk::Fault;
use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

use super::tls;

/// The longest part of an answer that a fault quotes, in characters.
const QUOTED: usize = 500;

/// The longest wait that is taken from `Retry-After`.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// A request that got no answer.
pub(crate) fn unanswered(error: &reqwest::Error, place: &str) -> Fault {
    if let Some(fault) = tls::fault(error, place) {
        return fault;
    }
    if error.is_builder() {
        return Fault::reject("request_invalid", format!("the request to {place} cannot be built: {}", root(error)));
    }
    if error.is_redirect() {
        return Fault::reject("redirect_refused", format!("{place} redirects where it may not: {}", root(error)));
    }
    let (code, what) = if error.is_dns() {
        ("dns", "the name is not known")
    } else if error.is_timeout() {
        ("timeout", "no answer in time")
    } else if error.is_connect() {
        ("connect", "no connection")
    } else {
        ("connection_broken", "the connection broke off")
    };
    Fault::outage(code, format!("{place}: {what} ({})", root(error)))
}

/// The innermost cause: the outer ones repeat the URL, which may hold secrets.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(_) => "no further cause".to_owned(),
        None => cause.to_string(),
    }
}

/// An answer that is not a success.
pub(crate) struct Refused<'a> {
    /// The status.
    pub(crate) status: StatusCode,
    /// The answer's headers.
    pub(crate) headers: &'a HeaderMap,
    /// The beginning of its body.
    pub(crate) excerpt: &'a str,
    /// Whether a credential was sent: only then 401 and 403 speak of it.
    pub(crate) with_credential: bool,
}

impl Refused<'_> {
    /// What it means for the message.
    pub(crate) fn fault(&self, place: &str) -> Fault {
        let code = format!("http_{}", self.status.as_u16());
        let text = self.text(place);
        match self.status.as_u16() {
            408 | 425 | 429 | 502..=504 => self.with_wait(Fault::outage(code, text)),
            500..=599 => self.with_wait(Fault::retry(code, text)),
            401 | 403 if self.with_credential => Fault::unauthorized(code, text),
            _ => Fault::reject(code, text),
        }
    }

    fn text(&self, place: &str) -> String {
        let moved = if self.status.is_redirection() { " (a redirect that is not followed)" } else { "" };
        let quote: String = self.excerpt.trim().chars().take(QUOTED).collect();
        let said = if quote.is_empty() { String::new() } else { format!(": {quote}") };
        format!("{place} answered {}{moved}{said}", self.status)
    }

    fn with_wait(&self, fault: Fault) -> Fault {
        match retry_after(self.headers, SystemTime::now()) {
            Some(wait) => fault.after(wait),
            None => fault,
        }
    }
}

/// What `Retry-After` asks for: seconds or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use flowline_sdk::FaultKind;

    use super::*;

    fn refused(status: u16, with_credential: bool) -> Fault {
        let headers = HeaderMap::new();
        let status = StatusCode::from_u16(status).unwrap();
        Refused { status, headers: &headers, excerpt: "no", with_credential }.fault("host/path")
    }

    #[test]
    fn a_status_decides_what_becomes_of_the_message() {
        for (status, with_credential, kind, outage) in [
            (408, false, FaultKind::Retry, true),
            (429, false, FaultKind::Retry, true),
            (503, false, FaultKind::Retry, true),
            (500, false, FaultKind::Retry, false),
            (507, false, FaultKind::Retry, false),
            (401, true, FaultKind::Unauthorized, false),
            (403, true, FaultKind::Unauthorized, false),
            (401, false, FaultKind::Reject, false),
            (403, false, FaultKind::Reject, false),
            (404, true, FaultKind::Reject, false),
            (422, false, FaultKind::Reject, false),
            (302, false, FaultKind::Reject, false),
        ] {
            let fault = refused(status, with_credential);
            assert_eq!((fault.kind, fault.outage), (kind, outage), "{status}");
            assert_eq!(fault.code, format!("http_{status}"));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        for (text, expected) in [
            ("120".to_owned(), Some(120)),
            (httpdate::fmt_http_date(now + Duration::from_secs(90)), Some(90)),
            (httpdate::fmt_http_date(now - Duration::from_secs(90)), Some(0)),
            ("99999999".to_owned(), Some(24 * 3600)),
            ("soon".to_owned(), None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_long_answer_is_cut() {
        let headers = HeaderMap::new();
        let excerpt = "ä".repeat(5_000);
        let status = StatusCode::BAD_REQUEST;
        let fault = Refused { status, headers: &headers, excerpt: &excerpt, with_credential: false }.fault("h/");
        assert_eq!(fault.message.matches('ä').count(), QUOTED);
    }
}
