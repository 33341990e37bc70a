//! Schedules: when a polling trigger is due, and what becomes of times that were missed.

use std::{str::FromStr, sync::Arc, time::Duration};

use chrono_tz::Tz;
use croner::Cron;
use serde::{Deserialize, Serialize};

use crate::{Lapse, Timestamp};

/// The shortest interval between two polls.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of times that passed while nothing ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// They are made up for by one run.
    #[default]
    Once,
    /// Each of them is made up for, one after the other.
    All,
    /// They are left out.
    Skip,
}

/// When a polling trigger is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    times: Times,
    misfire: Misfire,
}

#[derive(Clone, Debug)]
enum Times {
    Every(Duration),
    Cron { pattern: Arc<Cron>, zone: Tz, text: Arc<str> },
}

/// What to do with a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whether to run now.
    pub run: bool,
    /// When the next tick is due; none if never again.
    pub next: Option<Timestamp>,
}

/// Why a text is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchedule(String);

impl Schedule {
    /// Due again and again after `interval`.
    pub fn every(interval: Lapse, misfire: Misfire) -> Result<Self, InvalidSchedule> {
        if interval.0 < SHORTEST_INTERVAL {
            return Err(InvalidSchedule(format!("an interval is at least 1s, not {interval}")));
        }
        Ok(Self { times: Times::Every(interval.0), misfire })
    }

    /// Due at the times of a cron pattern (five fields, or six with seconds first) in a time zone.
    pub fn cron(pattern: &str, zone: &str, misfire: Misfire) -> Result<Self, InvalidSchedule> {
        let cron = Cron::from_str(pattern)
            .map_err(|error| InvalidSchedule(format!("`{pattern}` is not a cron pattern: {error}")))?;
        let zone: Tz = zone.parse().map_err(|_| {
            InvalidSchedule(format!("`{zone}` is not a time zone: write for example `Europe/Berlin` or `UTC`"))
        })?;
        let schedule = Self { times: Times::Cron { pattern: Arc::new(cron), zone, text: pattern.into() }, misfire };
        if schedule.after(Timestamp::default()).is_none() {
            return Err(InvalidSchedule(format!("`{pattern}` is never due: there is no such day")));
        }
        Ok(schedule)
    }

    /// Describes when it is due: two schedules with the same identity have the same times.
    pub fn identity(&self) -> String {
        match &self.times {
            Times::Every(interval) => format!("every {}", Lapse(*interval)),
            Times::Cron { zone, text, .. } => format!("cron {text} {zone}"),
        }
    }

    /// The first time when a flow starts: an interval begins at once, a cron pattern waits.
    pub fn first(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Every(_) => Some(now),
            Times::Cron { .. } => self.after(now),
        }
    }

    /// The first time that is later than `time`.
    pub fn after(&self, time: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Every(interval) => Some(time + *interval),
            Times::Cron { pattern, zone, .. } => {
                let local = time.to_utc().with_timezone(zone);
                pattern.find_next_occurrence(&local, false).ok().map(|next| next.to_utc().into())
            }
        }
    }

    /// What to do with the tick of `scheduled` when it is looked at `now`.
    ///
    /// A tick is late when the time after it has passed as well; only then the misfire policy
    /// counts.
    pub fn due(&self, scheduled: Timestamp, now: Timestamp) -> Due {
        let following = self.after(scheduled);
        let late = following.is_some_and(|next| next <= now);
        match self.misfire {
            _ if !late => Due { run: true, next: following },
            Misfire::All => Due { run: true, next: following },
            Misfire::Once => Due { run: true, next: self.first_after_now(scheduled, now) },
            Misfire::Skip => Due { run: false, next: self.first_after_now(scheduled, now) },
        }
    }

    /// The first time after `now` that an interval counted from `scheduled`, or the cron pattern,
    /// gives: intervals keep their beat.
    fn first_after_now(&self, scheduled: Timestamp, now: Timestamp) -> Option<Timestamp> {
        match &self.times {
            Times::Every(interval) => {
                let beats = now.since(scheduled).as_millis() / interval.as_millis().max(1) + 1;
                let beats = u32::try_from(beats).unwrap_or(u32::MAX);
                Some(scheduled + interval.saturating_mul(beats))
            }
            Times::Cron { .. } => self.after(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn missed_times_are_made_up_for_as_the_policy_says() {
        let scheduled = at("2026-01-01T00:00:00Z");
        let now = at("2026-01-01T00:03:30Z");
        let due = |misfire| Schedule::every(Lapse::seconds(60), misfire).unwrap().due(scheduled, now);
        let beat = Some(at("2026-01-01T00:04:00Z"));
        assert_eq!(due(Misfire::Once), Due { run: true, next: beat });
        assert_eq!(due(Misfire::Skip), Due { run: false, next: beat });
        assert_eq!(due(Misfire::All), Due { run: true, next: Some(at("2026-01-01T00:01:00Z")) });
    }

    #[test]
    fn a_tick_that_is_a_little_late_runs_whatever_the_policy() {
        let schedule = Schedule::every(Lapse::seconds(60), Misfire::Skip).unwrap();
        let scheduled = at("2026-01-01T00:00:00Z");
        assert_eq!(
            schedule.due(scheduled, at("2026-01-01T00:00:59Z")),
            Due { run: true, next: Some(at("2026-01-01T00:01:00Z")) }
        );
    }

    #[test]
    fn cron_follows_the_clock_on_the_wall() {
        let schedule = Schedule::cron("30 2 * * *", "Europe/Berlin", Misfire::Once).unwrap();
        // The night in which the clock jumps from 02:00 to 03:00: due once, at 03:00.
        assert_eq!(schedule.after(at("2026-03-28T12:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
        // The night in which 02:30 comes twice: due once.
        let first = schedule.after(at("2026-10-24T12:00:00Z")).unwrap();
        assert_eq!(first, at("2026-10-25T00:30:00Z"));
        assert_eq!(schedule.after(first), Some(at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn what_is_not_a_schedule_is_refused() {
        assert!(Schedule::every(Lapse(Duration::from_millis(10)), Misfire::Once).is_err());
        assert!(Schedule::cron("61 * * * *", "UTC", Misfire::Once).is_err());
        assert!(Schedule::cron("* * * * *", "Mars/Olympus", Misfire::Once).is_err());
    }
}
