//! `log.write`: writes into the step's log and passes the message on.

use flowline_sdk::prelude::*;

/// The most that one message writes, in bytes.
const LONGEST: usize = 8 * 1024;

/// What is written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteConfig {
    /// What is written: a text, or anything else as JSON. Without it, or where its expression has
    /// no result, the whole body.
    #[serde(default)]
    text: Option<Value>,
}

pub(crate) struct Write;

impl Action for Write {
    type Config = WriteConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("log.write", "Write to the log", "Writes into the step's log and passes the message on.")
            .description("At most 8 KiB of one message are written; what is longer ends with `…`.")
            .example("{}")
            .example("text: \"Order {{ id }} of {{ customer.name }}\"")
    }

    async fn run(&self, cx: &Context, config: WriteConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let text = match config.text.as_ref().unwrap_or(&input.body) {
            Value::String(text) => bounded(text),
            other => bounded(&other.to_string()),
        };
        text.lines().for_each(|line| cx.log(line));
        Ok(vec![crate::pass_on(input)])
    }
}

/// The text as far as it is written. Control characters would reach somebody's terminal.
fn bounded(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST);
    let harmless = |c: char| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    let mut bounded: String = text[..end].chars().map(harmless).collect();
    if end < text.len() {
        bounded.push('…');
    }
    bounded
}

#[cfg(test)]
mod tests {
    use flowline_sdk::testing::TestHost;

    use super::*;

    #[tokio::test]
    async fn the_text_or_the_body_is_written_and_the_message_passes() {
        for (config, expected) in [
            (json!({}), vec!["{\"a\":1}".to_owned()]),
            (json!({ "text": "one\ntwo" }), vec!["one".to_owned(), "two".to_owned()]),
            (json!({ "text": [1, 2] }), vec!["[1,2]".to_owned()]),
            (json!({ "text": "\u{1b}[31mred" }), vec!["\u{fffd}[31mred".to_owned()]),
            (json!({ "text": "ä".repeat(LONGEST) }), vec!["ä".repeat(LONGEST / 2) + "…"]),
        ] {
            let host = TestHost::new();
            let ran = host.run(&Operation::action(Write), config, host.message(json!({ "a": 1 }))).await.unwrap();
            assert_eq!(ran.emits, [Emit::new(json!({ "a": 1 }))]);
            assert_eq!(host.logged(), expected);
        }
    }
}
