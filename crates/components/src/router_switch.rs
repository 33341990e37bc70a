//! `router.switch`: sends a message along the ways whose conditions hold.

use std::collections::BTreeMap;

use flowline_sdk::prelude::*;
use serde_json::Map;

use crate::evaluated::holds;

/// The output for messages that fit no route.
const OTHERWISE: &str = "otherwise";

/// Which way messages go.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SwitchConfig {
    /// The routes: name of the output and the condition for it, an expression that is true or
    /// false. They are looked at in this order.
    #[serde(default)]
    #[schemars(!default, with = "BTreeMap<String, bool>", extend("minProperties" = 1))]
    routes: Map<String, Value>,
    /// Whether a message goes along the first route whose condition holds, or along all of them.
    #[serde(default)]
    mode: Mode,
}

/// How many routes one message may take.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// The first whose condition holds.
    #[default]
    First,
    /// Every one whose condition holds.
    All,
}

pub(crate) struct Switch;

impl Action for Switch {
    type Config = SwitchConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("router.switch", "Switch", "Sends each message along the route whose condition holds.")
            .description(
                "Steps come after an output: `after: switch.large`. A message that fits no route goes to `otherwise`; \
                 where nothing comes after an output its messages end there. A condition without a result counts as \
                 false; one that is neither true nor false rejects the message.",
            )
            .outputs(Outputs::Named { keys_of: "routes".to_owned(), always: vec![OTHERWISE.to_owned()] })
            .example("routes:\n  large: \"{{ total > 1000 }}\"\n  foreign: \"{{ country != 'DE' }}\"")
            .example("mode: all\nroutes:\n  mail: \"{{ 'mail' in channels }}\"\n  chat: \"{{ 'chat' in channels }}\"")
    }

    async fn run(&self, _: &Context, config: SwitchConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let most = if config.mode == Mode::First { 1 } else { usize::MAX };
        let mut taken = Vec::new();
        for (name, condition) in &config.routes {
            let fits = holds(Some(condition)).map_err(|why| {
                Fault::reject("not_a_condition", format!("the condition of the route `{name}` {why}"))
            })?;
            if fits && taken.len() < most {
                taken.push(name.as_str());
            }
        }
        if taken.is_empty() {
            taken.push(OTHERWISE);
        }
        let emit = crate::pass_on(input);
        Ok(taken.into_iter().map(|name| emit.clone().to_output(name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use flowline_sdk::{Recipient, testing::TestHost};

    use super::*;

    async fn switch(config: Value) -> Result<Vec<Recipient>, Fault> {
        let host = TestHost::new();
        let ran = host.run(&Operation::action(Switch), config, host.message(json!({ "n": 1 }))).await?;
        assert!(ran.emits.iter().all(|emit| emit.body == json!({ "n": 1 })));
        Ok(ran.emits.into_iter().map(|emit| emit.to).collect())
    }

    #[tokio::test]
    async fn messages_take_the_routes_whose_conditions_hold() {
        let routes = json!({ "z": false, "b": true, "a": true, "n": null });
        for (config, expected) in [
            (json!({ "routes": routes }), vec!["b"]),
            (json!({ "routes": routes, "mode": "all" }), vec!["b", "a"]),
            (json!({ "routes": { "a": false } }), vec!["otherwise"]),
            (json!({ "routes": {}, "mode": "all" }), vec!["otherwise"]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|name| Recipient::Output(name.to_owned())).collect();
            assert_eq!(switch(config.clone()).await.unwrap(), expected, "{config}");
        }
    }

    #[tokio::test]
    async fn what_is_no_condition_rejects_the_message_even_behind_the_route_taken() {
        let fault = switch(json!({ "routes": { "a": true, "b": "yes" } })).await.unwrap_err();
        assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Reject, "not_a_condition"));
        assert!(fault.message.contains("`b`"), "{fault}");
    }
}
