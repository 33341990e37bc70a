//! Limits of speed as people write them: `20/s`, `100/m`, `5000/h`.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// At most so many messages in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// How many messages.
    pub count: NonZeroU32,
    /// In how long.
    pub period: Duration,
}

const PERIODS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];

/// Why a text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a rate: write for example `20/s`, `100/m`, `5000/h` or `10000/d`")]
pub struct InvalidRate {
    text: String,
}

impl FromStr for Rate {
    type Err = InvalidRate;
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let parse = || {
            let (count, period) = text.split_once('/')?;
            let (_, seconds) = PERIODS.iter().find(|(name, _)| *name == period.trim())?;
            Some(Rate { count: count.trim().parse().ok()?, period: Duration::from_secs(*seconds) })
        };
        parse().ok_or_else(|| InvalidRate { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = PERIODS.iter().find(|(_, seconds)| *seconds == self.period.as_secs()).map_or("s", |p| p.0);
        write!(f, "{}/{unit}", self.count)
    }
}

impl TryFrom<String> for Rate {
    type Error = InvalidRate;
    fn try_from(text: String) -> Result<Self, InvalidRate> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_back() {
        for text in ["20/s", "1/m", "5000/h", "7/d"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for bad in ["0/s", "20", "20/week", "-1/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
