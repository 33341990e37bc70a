//! `transform.filter`: lets a message pass, or ends its way here.

use flowline_sdk::prelude::*;

use crate::evaluated::{holds, present};

/// Which messages pass.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilterConfig {
    /// Whether the message passes: an expression that is true or false. No result counts as false.
    #[serde(default, deserialize_with = "present")]
    #[schemars(!default, with = "bool")]
    condition: Option<Value>,
}

pub(crate) struct Filter;

impl Action for Filter {
    type Config = FilterConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("transform.filter", "Filter", "Passes a message on if a condition holds.")
            .description(
                "The message passes unchanged, with its files. A condition that is neither true nor false rejects \
                 the message; a missing one counts as false. To choose between ways use `router.switch`.",
            )
            .example("condition: \"{{ total > 1000 and country = 'DE' }}\"")
    }

    async fn run(&self, _: &Context, config: FilterConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let passes = holds(config.condition.as_ref())
            .map_err(|why| Fault::reject("not_a_condition", format!("`condition` {why}")))?;
        Ok(if passes { vec![crate::pass_on(input)] } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use flowline_sdk::testing::TestHost;

    use super::*;

    #[tokio::test]
    async fn messages_pass_unchanged_or_not_at_all() {
        let host = TestHost::new();
        let body = json!({ "a": 1 });
        for (config, expected) in [
            (json!({ "condition": true }), Ok(vec![Emit::new(body.clone())])),
            (json!({ "condition": false }), Ok(vec![])),
            (json!({ "condition": null }), Ok(vec![])),
            (json!({}), Ok(vec![])),
            (json!({ "condition": "true" }), Err((FaultKind::Reject, "not_a_condition".to_owned()))),
            (json!({ "condition": 1 }), Err((FaultKind::Reject, "not_a_condition".to_owned()))),
        ] {
            let ran = host.run(&Operation::action(Filter), config.clone(), host.message(body.clone())).await;
            assert_eq!(ran.map(|ran| ran.emits).map_err(|fault| (fault.kind, fault.code)), expected, "{config}");
        }
    }
}
