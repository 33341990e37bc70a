//! `timer.tick`: begins an execution whenever the step's schedule is due.
//!
//! The schedule itself is a key of the step and belongs to the engine: what is polled here is
//! nothing but the clock.

use flowline_sdk::prelude::*;

use crate::evaluated::present;

/// What a tick emits.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TickConfig {
    /// The body of each message. Without it the body is `{ "now": … }`, the time of the tick.
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
}

pub(crate) struct Tick;

impl PollingTrigger for Tick {
    type Config = TickConfig;
    type Snapshot = ();

    fn spec() -> OperationSpec {
        OperationSpec::polling("timer.tick", "Tick", "Emits a message whenever the step's schedule is due.")
            .description(
                "When it is due is said by `schedule` beside `with`: `schedule: { every: 5m }`, or \
                 `schedule: { cron: \"0 8 * * MON-FRI\", time_zone: Europe/Berlin }`. \
                 `misfire: once`, `all` or `skip` says what becomes of times that passed while nothing ran.\n\n\
                 The body is `{ \"now\": \"2026-01-01T08:00:00.000Z\" }` unless `body` says something else.",
            )
            .example("{}")
            .example("body: { report: sales, days: 7 }")
    }

    async fn poll(&self, cx: &Context, config: TickConfig, (): ()) -> Result<Polled<()>, Fault> {
        let body = config.body.unwrap_or_else(|| json!({ "now": cx.now() }));
        Ok(Polled { emits: vec![Emit::new(body)], ..Polled::default() })
    }
}

#[cfg(test)]
mod tests {
    use flowline_sdk::testing::TestHost;

    use super::*;

    #[tokio::test]
    async fn a_tick_says_when_it_is_or_what_it_is_told() {
        let host = TestHost::new();
        for (config, expected) in [
            (json!({}), json!({ "now": "2026-01-01T00:00:00.000Z" })),
            (json!({ "body": [1] }), json!([1])),
            (json!({ "body": null }), json!(null)),
        ] {
            let polled = host.poll(&Operation::polling(Tick), config, Some(Value::Null)).await.unwrap();
            assert_eq!(polled, Polled { emits: vec![Emit::new(expected)], snapshot: Value::Null, more: false });
        }
    }
}
