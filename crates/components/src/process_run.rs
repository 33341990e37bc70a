//! `process.run` and `process.poll`: the flow author's own program, as an action or as a polling
//! trigger. Only what they say of themselves: the program runs in a child process of the server.

use std::collections::BTreeMap;

use flowline_sdk::prelude::*;

/// What is run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it is the schema that counts: the engine reads the values")]
pub(crate) struct ProcessConfig {
    /// The program and its arguments, without a shell. It is started once and given one message
    /// after the other; it cannot read messages here, but `$var`, `$secret` and `$flow`.
    command: Vec<String>,
    /// Its environment, besides `PATH`, `HOME` and `LANG`.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The most memory that it may use for its data (on Linux, by `prlimit`); no limit unless it
    /// is given.
    memory: Option<Size>,
    /// What it is given as the body; the whole body unless it is given.
    input: Option<Value>,
}

const PROTOCOL: &str = "The program reads one JSON object from each line of its standard input, and answers with lines \
     of its own: `{\"emit\": {\"body\": …}}` for each message of the next steps, then `{\"done\": true}` or \
     `{\"fault\": {\"message\": …}}`. What it writes to standard error goes to the step's log. The whole protocol is \
     in `docs/guides/own-component.md`.";

/// The program as an action.
pub(crate) fn run() -> Operation {
    Operation::process::<ProcessConfig>(
        OperationSpec::action("process.run", "Run a program", "Gives each message to a program of your own.")
            .description(PROTOCOL)
            .writes_outside()
            .example("command: [python3, /opt/flows/price.py]")
            .example(
                "command: [/opt/flows/convert]\nenv: { MODE: fast }\nmemory: 128MiB\ninput: \"{{ order.lines }}\"",
            ),
    )
}

/// The program as a polling trigger.
pub(crate) fn poll() -> Operation {
    Operation::process::<ProcessConfig>(
        OperationSpec::polling("process.poll", "Poll with a program", "Asks a program of your own for what is new.")
            .description(&format!(
                "{PROTOCOL} A poll is also given `snapshot`, and answers `{{\"snapshot\": …}}` with what the next one \
                 begins with; it becomes durable together with what was emitted."
            ))
            .example("command: [python3, /opt/flows/inbox.py]"),
    )
}
