//! Secrets: what `$secret` reads. They cannot be printed, and texts can be scrubbed of them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;

/// The shortest secret that texts are scrubbed of: shorter ones stand in harmless places too.
const SHORTEST_SCRUBBED: usize = 4;

/// The secrets that flows may read, by name.
#[derive(Clone, Default)]
pub struct Secrets {
    as_json: Arc<Value>,
    /// The values to scrub, the longest first, so that no part of one is left.
    scrubbed: Arc<[String]>,
}

impl Secrets {
    /// Takes secrets by name.
    pub fn new(secrets: BTreeMap<String, String>) -> Self {
        let mut scrubbed: Vec<String> =
            secrets.values().filter(|value| value.len() >= SHORTEST_SCRUBBED).cloned().collect();
        scrubbed.sort_by_key(|value| std::cmp::Reverse(value.len()));
        let as_json = Value::Object(secrets.into_iter().map(|(name, value)| (name, Value::String(value))).collect());
        Self { as_json: Arc::new(as_json), scrubbed: scrubbed.into() }
    }

    /// Whether there is a secret with this name.
    pub fn contains(&self, name: &str) -> bool {
        self.as_json.get(name).is_some()
    }

    /// What expressions see; only for configuration that is used and thrown away.
    pub(crate) fn exposed(&self) -> &Value {
        &self.as_json
    }

    /// The text without any secret in it.
    pub fn scrub(&self, text: String) -> String {
        let found = |text: &str| self.scrubbed.iter().find(|secret| text.contains(secret.as_str()));
        let mut text = text;
        while let Some(secret) = found(&text) {
            text = text.replace(secret.as_str(), "•••");
        }
        text
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.scrubbed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_scrubbed_and_nothing_prints_a_secret() {
        let secrets = Secrets::new(BTreeMap::from([("a".into(), "hush-hush".into()), ("b".into(), "hush".into())]));
        assert_eq!(secrets.scrub("say hush-hush or hush".into()), "say ••• or •••");
        assert!(!format!("{secrets:?}").contains("hush"));
    }
}
