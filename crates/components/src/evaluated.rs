//! Fields whose value is an evaluated expression: absent where it had no result, null where its
//! result was null.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Keeps null apart from absent; to be used with `#[serde(default)]`.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// What a condition came to: a missing result or null does not hold.
pub(crate) fn holds(condition: Option<&Value>) -> Result<bool, String> {
    match condition {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(holds)) => Ok(*holds),
        Some(other) => {
            let text: String = other.to_string().chars().take(80).collect();
            Err(format!("is true or false, not {text}; write for example `$boolean(…)` or `$exists(…)` around it"))
        }
    }
}
