//! Operations that do what a worker must survive.

use std::sync::{Arc, LazyLock};

use flowline_sdk::{model::Size, prelude::*, testing::collect};
use tokio::sync::Notify;

/// Lets the slow operation go on.
pub(crate) static GO_ON: LazyLock<Arc<Notify>> = LazyLock::new(Arc::default);

/// What to do.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Behaviour {
    Panic,
    Slow,
    Hang,
    Reject,
    Unauthorized,
    Misconfigured,
    Outage,
    Large,
    Copy,
    Remind,
}

pub(crate) struct Behave;

impl Action for Behave {
    type Config = Behaviour;

    fn spec() -> OperationSpec {
        OperationSpec::action("test.behave", "Behave", "Does what it is told.")
    }

    async fn run(&self, cx: &Context, behaviour: Behaviour, input: Message) -> Result<Vec<Emit>, Fault> {
        match behaviour {
            Behaviour::Panic => panic!("as it was told"),
            Behaviour::Slow => GO_ON.notified().await,
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Reject => return Err(Fault::reject("bad_input", "no good")),
            Behaviour::Unauthorized => return Err(Fault::unauthorized("http_401", "who are you")),
            Behaviour::Misconfigured => return Err(Fault::misconfigured("no_such_host", "nowhere")),
            Behaviour::Outage => {
                return Err(Fault::outage("http_503", "closed").after(std::time::Duration::from_millis(1500)));
            }
            Behaviour::Large => return Ok(vec![Emit::new("small"), Emit::new("x".repeat(11 << 20))]),
            Behaviour::Copy => return copy(cx, &input).await,
            Behaviour::Remind => {
                let later = Emit::reminder(json!({ "again": true }), std::time::Duration::from_secs(9));
                return Ok(vec![Emit::new(1).to_output("large").header("X-Why", "test"), later]);
            }
        }
        cx.log("it went on");
        Ok(vec![Emit::new(cx.idempotency_key())])
    }
}

async fn copy(cx: &Context, input: &Message) -> Result<Vec<Emit>, Fault> {
    let failed = |error: flowline_sdk::AttachmentError| Fault::retry("attachment", error.to_string());
    let files = cx.attachments();
    let content = collect(files.open(&input.attachments[0]).await.map_err(failed)?).await.unwrap();
    let execution = cx.place().execution;
    let again = flowline_sdk::testing::in_parts(content.to_ascii_uppercase().into());
    let copy = files.store(execution, "ä copy.txt", "text/plain", again, Size(1_000)).await.map_err(failed)?;
    let large = flowline_sdk::testing::in_parts(vec![b'x'; 2_000].into());
    let refused = files.store(execution, "large", "text/plain", large, Size(1_000)).await;
    assert!(matches!(refused, Err(flowline_sdk::AttachmentError::TooLarge(Size(1_000)))), "{refused:?}");
    Ok(vec![Emit::new(content.len()).attachments(vec![copy])])
}

/// Counts up in chunks of two, to six; the third chunk of the first poll fails.
pub(crate) struct Counting;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct CountingConfig {
    fails_at: Option<u64>,
}

impl PollingTrigger for Counting {
    type Config = CountingConfig;
    type Snapshot = u64;

    fn spec() -> OperationSpec {
        OperationSpec::polling("test.count", "Count", "Counts.")
    }

    async fn poll(&self, cx: &Context, config: CountingConfig, since: u64) -> Result<Polled<u64>, Fault> {
        // What an earlier round remembered is there in a later one.
        assert_eq!(cx.state::<u64>("reached").await?.unwrap_or(since), since);
        if config.fails_at == Some(since) {
            return Err(Fault::retry("source", "the source went away"));
        }
        let snapshot = since + 2;
        cx.remember("reached", snapshot)?;
        Ok(Polled { emits: vec![Emit::new(since + 1), Emit::new(snapshot)], snapshot, more: snapshot < 6 })
    }
}
