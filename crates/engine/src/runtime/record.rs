//! Records: lines in which programs in Node.js log, as JSON with a level and a message (the form
//! of bunyan and pino). People read the message; the rest of it repeats what is known.

use serde::Deserialize;
use serde_json::Value;
use tracing::Level;

/// A line of a log: how much it matters and what it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) level: Level,
    pub(super) text: String,
}

/// The form. Levels are 10 for `trace` up to 60 for `fatal`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    level: u64,
    msg: String,
    err: Option<Value>,
    message_id: Option<String>,
}

impl Record {
    /// Reads a line; one that is not in the form is said as it is.
    pub(super) fn of(line: &str) -> Self {
        match serde_json::from_str::<Form>(line) {
            Ok(form) => Self { level: level(form.level), text: text(form) },
            Err(_) => Self { level: Level::INFO, text: line.to_owned() },
        }
    }
}

fn level(number: u64) -> Level {
    match number {
        0..20 => Level::TRACE,
        20..30 => Level::DEBUG,
        30..40 => Level::INFO,
        40..50 => Level::WARN,
        _ => Level::ERROR,
    }
}

fn text(form: Form) -> String {
    let Form { mut msg, err, message_id, .. } = form;
    let said = |key: &str| err.as_ref()?.get(key)?.as_str().map(str::to_owned);
    if let Some(error) = said("stack").or_else(|| said("message")).filter(|error| !msg.contains(error.as_str())) {
        msg = format!("{msg}: {error}");
    }
    // The sailor says `unknown` where there is no message.
    match message_id.filter(|id| id != "unknown") {
        Some(id) => format!("{msg} (message {id})"),
        None => msg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_record_is_read_and_other_lines_are_said_as_they_are() {
        let cases = [
            (r#"{"name":"x","level":40,"msg":"late","time":"…","v":0}"#, Level::WARN, "late"),
            (
                r#"{"level":50,"msg":"no","err":{"message":"broken"},"messageId":"m1"}"#,
                Level::ERROR,
                "no: broken (message m1)",
            ),
            (r#"{"level":"info","msg":"other form"}"#, Level::INFO, r#"{"level":"info","msg":"other form"}"#),
            ("plain", Level::INFO, "plain"),
        ];
        for (line, level, text) in cases {
            assert_eq!(Record::of(line), Record { level, text: text.to_owned() });
        }
    }
}
