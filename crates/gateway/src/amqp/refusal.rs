//! Refusals: how the protocol says no. A soft error ends the channel, a hard one the connection.

use amq_protocol::{
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    types::ShortString,
};

/// Why something is refused, and how much ends with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub(crate) kind: AMQPErrorKind,
    pub(crate) text: String,
}

impl Refusal {
    /// Ends the channel.
    pub(crate) fn soft(kind: AMQPSoftError, text: impl Into<String>) -> Self {
        Self { kind: kind.into(), text: text.into() }
    }

    /// Ends the connection.
    pub(crate) fn hard(kind: AMQPHardError, text: impl Into<String>) -> Self {
        Self { kind: kind.into(), text: text.into() }
    }

    pub(crate) fn access(text: impl Into<String>) -> Self {
        Self::soft(AMQPSoftError::ACCESSREFUSED, text)
    }

    pub(crate) fn not_implemented(what: &str) -> Self {
        Self::hard(AMQPHardError::NOTIMPLEMENTED, format!("{what} is not offered here"))
    }

    pub(crate) fn is_hard(&self) -> bool {
        matches!(self.kind, AMQPErrorKind::Hard(_))
    }

    /// The protocol's number.
    pub fn code(&self) -> u16 {
        self.kind.get_id()
    }

    /// The number's name and the text, as short as the protocol wants it.
    pub(crate) fn reply_text(&self) -> ShortString {
        let name = match &self.kind {
            AMQPErrorKind::Soft(soft) => soft.to_string(),
            AMQPErrorKind::Hard(hard) => hard.to_string(),
        };
        short(&format!("{name} - {}", self.text))
    }
}

/// A text cut to what a short string holds.
pub(crate) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::try_new(&text[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(short("short").as_str(), "short");
        assert_eq!(short(&"ä".repeat(200)).as_str(), "ä".repeat(127));
    }
}
