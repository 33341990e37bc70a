//! `email.send`: sends mail over SMTP.
//!
//! The `Message-ID` follows from the idempotency key, so a mail that had to be sent again is
//! recognisable as the same one.

mod letter;
mod mailer;

use flowline_sdk::prelude::*;

use mailer::{Mailers, Server};

/// The mail and the server that takes it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmailSendConfig {
    /// Who sends it: `team@example.com` or `The team <team@example.com>`.
    from: String,
    /// Who receives it: one address or a list.
    #[serde(default)]
    to: Addresses,
    /// Who receives a copy.
    #[serde(default)]
    cc: Addresses,
    /// Who receives a copy without the others knowing.
    #[serde(default)]
    bcc: Addresses,
    /// Who receives answers, if not the sender.
    #[serde(default)]
    reply_to: Addresses,
    /// The subject.
    #[serde(default)]
    subject: String,
    /// The mail as plain text.
    #[serde(default)]
    text: Option<String>,
    /// The mail as HTML. With `text` too, the reader's program chooses.
    #[serde(default)]
    html: Option<String>,
    /// Whether the message's attachments are attached, 25 MiB together at most.
    #[serde(default = "yes")]
    attachments: bool,
    /// The server that takes the mail.
    server: Server,
}

/// One address or a list.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Addresses {
    /// One address, or several with commas between them.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Default for Addresses {
    fn default() -> Self {
        Addresses::Several(Vec::new())
    }
}

fn yes() -> bool {
    true
}

/// Sends mail over SMTP.
#[derive(Default)]
pub(crate) struct EmailSend {
    mailers: Mailers,
}

impl Action for EmailSend {
    type Config = EmailSendConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("email.send", "Send a mail", "Sends a mail over SMTP.")
            .description(DESCRIPTION)
            .writes_outside()
            .example(
                "from: Shop <shop@example.com>\nto: sales@example.com\nsubject: \"New interest: {{ name }}\"\n\
                 text: \"{{ name }} <{{ email }}> asks for an offer.\"\n\
                 server: { host: mail.example.com, user: shop, password: \"{{ $secret.mail }}\" }",
            )
            .example(
                "from: flowline@localhost\nto: [me@localhost, you@localhost]\nsubject: Hello\ntext: A mail to try it out.\n\
                 server: { host: localhost, port: 2525, security: none }",
            )
    }

    async fn run(&self, cx: &Context, config: EmailSendConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let files = if config.attachments { input.attachments.as_slice() } else { &[] };
        let letter = letter::write(cx, &config, files).await?;
        let recipients: Vec<String> = letter.envelope().to().iter().map(ToString::to_string).collect();
        self.mailers.send(&config.server, &letter).await?;
        let id = letter::message_id(cx);
        Ok(vec![Emit::new(json!({ "message_id": id, "recipients": recipients }))])
    }
}

const DESCRIPTION: &str = "\
Sends a mail and emits its `message_id` and `recipients`. Connections are encrypted and the server's certificate is
verified; `security: none` is for servers on the same machine.

| Trouble | What becomes of the message |
|---|---|
| no connection, no answer in time, `421` | it waits until the server is back |
| other `4xx` | it is retried |
| the server does not accept user or password | the step pauses |
| `5xx`, an invalid address | it becomes a dead letter |

The `Message-ID` is the same for every attempt with a message: should a mail have to be sent again because the
connection broke off before the server confirmed it, mail programs can recognise it.";
