//! Keys of a credential that its component refreshed: they stand in the place of the configured
//! ones, until somebody configures others.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Refreshed keys, and what was configured when they came.
#[derive(Serialize, Deserialize)]
pub(super) struct Refreshed {
    keys: Map<String, Value>,
    /// A hash of the configured values of the same keys.
    instead_of: String,
}

impl Refreshed {
    /// The refreshed keys, as far as they still count.
    pub(super) fn of(kept: Option<Value>, config: &Map<String, Value>) -> Map<String, Value> {
        let kept = kept.and_then(|kept| serde_json::from_value::<Self>(kept).ok());
        let counts = |kept: &Self| kept.instead_of == hash(&kept.keys, config);
        kept.filter(counts).map(|kept| kept.keys).unwrap_or_default()
    }

    /// What is to be kept once more keys were refreshed.
    pub(super) fn over(kept: Option<Value>, fresh: Map<String, Value>, config: &Map<String, Value>) -> Value {
        let mut keys = Self::of(kept, config);
        keys.extend(fresh);
        let instead_of = hash(&keys, config);
        serde_json::json!(Self { keys, instead_of })
    }
}

fn hash(keys: &Map<String, Value>, config: &Map<String, Value>) -> String {
    let mut names: Vec<_> = keys.keys().collect();
    names.sort();
    let configured: Vec<_> = names.into_iter().map(|name| (name, config.get(name))).collect();
    hex::encode(Sha256::digest(serde_json::json!(configured).to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn refreshed_keys_count_until_others_are_configured() {
        let config = map(&json!({"token": "old", "url": "x"}));
        let kept = Refreshed::over(None, map(&json!({"token": "new"})), &config);
        let kept = Refreshed::over(Some(kept), map(&json!({"until": 7})), &config);
        let refreshed = map(&json!({"token": "new", "until": 7}));
        assert_eq!(Refreshed::of(Some(kept.clone()), &config), refreshed);
        let elsewhere = map(&json!({"token": "old", "url": "y"}));
        assert_eq!(Refreshed::of(Some(kept.clone()), &elsewhere), refreshed);
        let other = map(&json!({"token": "other", "url": "x"}));
        assert_eq!(Refreshed::of(Some(kept.clone()), &other), Map::new());
        let kept = Refreshed::over(Some(kept), map(&json!({"token": "newer"})), &other);
        assert_eq!(Refreshed::of(Some(kept), &other), map(&json!({"token": "newer"})));
        assert_eq!(Refreshed::of(None, &config), Map::new());
    }
}
