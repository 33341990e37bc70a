//! Lengths of time as people write them: `250ms`, `1s`, `1h 30m`, `7d`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time in a flow document or a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lapse(pub Duration);

impl Lapse {
    /// A lapse of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// Why a text is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a length of time: write for example `250ms`, `30s`, `5m`, `1h 30m` or `7d`")]
pub struct InvalidLapse {
    text: String,
}

impl FromStr for Lapse {
    type Err = InvalidLapse;
    fn from_str(text: &str) -> Result<Self, InvalidLapse> {
        humantime::parse_duration(text).map(Lapse).map_err(|_| InvalidLapse { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Lapse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&humantime::format_duration(self.0).to_string())
    }
}

impl TryFrom<String> for Lapse {
    type Error = InvalidLapse;
    fn try_from(text: String) -> Result<Self, InvalidLapse> {
        text.parse()
    }
}

impl From<Lapse> for String {
    fn from(lapse: Lapse) -> String {
        lapse.to_string()
    }
}

impl JsonSchema for Lapse {
    fn schema_name() -> Cow<'static, str> {
        "Lapse".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "lapse", "examples": ["30s", "5m", "1h 30m"] })
    }
}
