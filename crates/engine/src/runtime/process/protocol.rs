//! The lines between the server and a program: one JSON object each, both ways. Pure.

use std::collections::BTreeMap;

use flowline_model::{Emit, Fault, FaultKind, Lapse, Message};
use flowline_sdk::Place;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest line, in bytes.
pub(super) const LONGEST_LINE: usize = 10 << 20;
/// The most emits of one message.
const MOST_EMITS: usize = 100_000;
/// Their most bytes.
const MOST_BYTES: usize = 64 << 20;

/// What a program is asked.
#[derive(Serialize)]
struct Ask<'a> {
    id: String,
    attempt: u32,
    flow: &'a str,
    step: &'a str,
    execution: String,
    body: &'a Value,
    headers: &'a BTreeMap<String, String>,
    /// For a poll: what the last one left; null before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Value>,
}

/// The line that asks a program to work on a message; `snapshot` is there for polls.
pub(super) fn ask(place: &Place, message: &Message, body: &Value, snapshot: Option<Value>) -> Result<String, Fault> {
    let ask = Ask {
        id: place.message.to_string(),
        attempt: place.attempt,
        flow: place.flow.as_str(),
        step: place.step.as_str(),
        execution: place.execution.to_string(),
        body,
        headers: &message.headers,
        snapshot,
    };
    let mut line = serde_json::to_string(&ask).map_err(|error| Fault::reject("input_unwritable", error.to_string()))?;
    line.push('\n');
    Ok(line)
}

/// What a program says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// It is ready for its first message.
    Ready(bool),
    /// A message for the next steps.
    Emit(Emitted),
    /// What the next poll begins with.
    Snapshot(Value),
    /// A line for the step's log.
    Log(String),
    /// It has finished with the message.
    Done(bool),
    /// It could not process the message.
    Fault(Failed),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Emitted {
    body: Value,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    output: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failed {
    #[serde(default = "retry")]
    kind: FaultKind,
    code: Option<String>,
    message: String,
    after: Option<Lapse>,
    #[serde(default)]
    outage: bool,
}

fn retry() -> FaultKind {
    FaultKind::Retry
}

/// Reads a line of a program.
pub(super) fn read(line: &str) -> Result<Said, Fault> {
    serde_json::from_str(line).map_err(|error| {
        let beginning: String = line.chars().take(80).collect();
        let message = format!(
            "the program wrote `{beginning}` to its standard output, which is not of the protocol ({error}); what is \
             for people goes to standard error"
        );
        Fault::reject("program_protocol", message)
    })
}

/// What a program made of a message so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) emits: Vec<Emit>,
    pub(super) snapshot: Option<Value>,
    bytes: usize,
}

impl Answer {
    /// Takes a message for the next steps, within bounds; `bytes` is the length of its line.
    pub(super) fn emit(&mut self, emitted: Emitted, bytes: usize) -> Result<(), Fault> {
        self.bytes += bytes;
        if self.emits.len() >= MOST_EMITS || self.bytes > MOST_BYTES {
            let message = format!(
                "the program emitted more than {MOST_EMITS} messages or {} MiB for one message: split the work",
                MOST_BYTES >> 20
            );
            return Err(Fault::reject("too_many_emits", message));
        }
        let mut emit = emitted.output.into_iter().fold(Emit::new(emitted.body), Emit::to_output);
        for (name, value) in emitted.headers {
            emit = emit.header(&name, value);
        }
        self.emits.push(emit);
        Ok(())
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        Fault {
            kind: failed.kind,
            code: failed.code.unwrap_or_else(|| "program".to_owned()),
            message: failed.message,
            after: failed.after.map(|after| after.0),
            outage: failed.outage && failed.kind == FaultKind::Retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use flowline_model::Recipient;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_what_it_says() {
        let Ok(Said::Emit(emitted)) = read(r#"{"emit":{"body":{"a":1},"headers":{"X-A":"b"},"output":"large"}}"#)
        else {
            panic!("no emit")
        };
        let mut answer = Answer::default();
        answer.emit(emitted, 10).unwrap();
        let emit = &answer.emits[0];
        assert_eq!((&emit.body, &emit.to), (&json!({"a": 1}), &Recipient::Output("large".into())));
        assert_eq!(emit.headers["x-a"], "b");
        let Ok(Said::Fault(failed)) = read(r#"{"fault":{"kind":"retry","message":"busy","after":"30s"}}"#) else {
            panic!("no fault")
        };
        let fault = Fault::from(failed);
        assert_eq!((fault.code.as_str(), fault.after.unwrap().as_secs()), ("program", 30));
        assert!(matches!(read(r#"{"done":true}"#), Ok(Said::Done(true))));
        assert!(matches!(read(r#"{"snapshot":null}"#), Ok(Said::Snapshot(Value::Null))));
    }

    #[test]
    fn what_is_no_line_of_the_protocol_says_so() {
        for line in ["hello", "{}", "[1]", r#"{"emit":1}"#, r#"{"emit":{"body":1,"to":"x"}}"#, r#"{"other":1}"#, ""] {
            assert_eq!(read(line).unwrap_err().code, "program_protocol", "{line}");
        }
    }

    #[test]
    fn emits_are_bounded() {
        let emitted = || Emitted { body: json!(1), headers: BTreeMap::new(), output: None };
        let mut answer = Answer::default();
        assert!(answer.emit(emitted(), MOST_BYTES).is_ok());
        assert_eq!(answer.emit(emitted(), 1).unwrap_err().code, "too_many_emits");
    }
}
