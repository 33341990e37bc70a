//! Names: of a flow, of a step, and of the queue that belongs to a step of a flow.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest name of a flow or a step, in bytes.
pub const LONGEST_NAME: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name: use 1 to 63 of a-z, 0-9, `-` and `_`, and start with a letter or digit")]
pub struct InvalidName {
    text: String,
}

fn is_name(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    text.len() <= LONGEST_NAME
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName { text: text.chars().take(80).collect() })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name!(
    /// The name of a flow: unique on a server, part of URLs and of queue names.
    FlowName
);
name!(
    /// The name of a step within its flow.
    StepId
);

/// The queue where messages wait for one step: written `flow/step`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName {
    /// The flow the step belongs to.
    pub flow: FlowName,
    /// The step that reads the queue.
    pub step: StepId,
}

impl QueueName {
    /// The queue of `step` in `flow`.
    pub fn new(flow: FlowName, step: StepId) -> Self {
        Self { flow, step }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.flow, self.step)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for QueueName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (flow, step) = text.split_once('/').ok_or_else(|| InvalidName { text: text.into() })?;
        Ok(Self { flow: flow.parse()?, step: step.parse()? })
    }
}

impl TryFrom<String> for QueueName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<QueueName> for String {
    fn from(name: QueueName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_words() {
        for good in ["a", "register-interest", "step_2", "0"] {
            assert_eq!(FlowName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a b", "ä", "a/b", &"x".repeat(64)] {
            assert!(FlowName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_queue_name_reads_back() {
        let name: QueueName = "orders/cms".parse().unwrap();
        assert_eq!(name.to_string(), "orders/cms");
        assert!("orders".parse::<QueueName>().is_err());
    }
}
