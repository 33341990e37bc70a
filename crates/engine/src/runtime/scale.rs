//! How many workers a step should have: up quickly with its backlog, down slowly, to none when
//! it may and nothing has come for a while. Pure: what it looks at is an argument.

use std::time::Duration;

/// Messages that each place of a worker is given to work off before another worker is asked for.
const PER_PLACE: u64 = 10;
/// A message that has waited so long asks for twice the workers.
const TOO_OLD: Duration = Duration::from_secs(5);
/// The least time between two such doublings: new workers need a moment to show what they do.
const BETWEEN: Duration = Duration::from_secs(5);

/// What the number of workers depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// At least so many.
    pub(crate) min: u32,
    /// At most so many.
    pub(crate) max: u32,
    /// How many messages one works on at the same time.
    pub(crate) prefetch: u32,
    /// Messages that wait.
    pub(crate) ready: u64,
    /// Messages that are worked on.
    pub(crate) leased: u64,
    /// How long the oldest of them has been there.
    pub(crate) oldest: Duration,
    /// How many were wanted so far.
    pub(crate) current: u32,
    /// How long that has been so.
    pub(crate) unchanged: Duration,
    /// How long nothing has waited or been worked on.
    pub(crate) idle: Duration,
    /// The least time before one worker less.
    pub(crate) fewer_after: Duration,
    /// How long nothing must have come before the last worker goes.
    pub(crate) none_after: Duration,
}

/// How many workers a step should have.
pub(crate) fn wanted(look: &Look) -> u32 {
    let current = look.current.clamp(look.min, look.max);
    let needed = needed(look).clamp(look.min, look.max);
    if needed > current {
        return needed;
    }
    let slow = look.ready > 0 && look.oldest > TOO_OLD && look.unchanged >= BETWEEN;
    if slow {
        return current.saturating_mul(2).clamp(look.min, look.max);
    }
    let last = current == 1 && needed == 0;
    let may_go = if last { look.idle >= look.none_after } else { look.unchanged >= look.fewer_after };
    if needed < current && may_go && look.ready == 0 { current - 1 } else { current }
}

/// How many workers the backlog asks for.
fn needed(look: &Look) -> u32 {
    let each = u64::from(look.prefetch.max(1)).saturating_mul(PER_PLACE);
    let by_backlog = (look.ready + look.leased).div_ceil(each);
    u32::try_from(by_backlog).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Look = Look {
        min: 0,
        max: 4,
        prefetch: 1,
        ready: 0,
        leased: 0,
        oldest: Duration::ZERO,
        current: 0,
        unchanged: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        fewer_after: Duration::from_secs(15),
        none_after: Duration::from_secs(30),
    };

    #[test]
    fn the_number_follows_the_backlog() {
        let second = Duration::from_secs;
        for (name, look, expected) in [
            ("nothing to do, none wanted", NOTHING, 0),
            ("at least min", Look { min: 2, ..NOTHING }, 2),
            ("a fixed number", Look { min: 3, max: 3, current: 3, ready: 9_999, oldest: second(99), ..NOTHING }, 3),
            ("the first message starts one", Look { ready: 1, idle: second(0), ..NOTHING }, 1),
            ("a small backlog is one's work", Look { ready: 9, leased: 1, current: 1, ..NOTHING }, 1),
            ("a large one is shared", Look { ready: 25, current: 1, unchanged: second(0), ..NOTHING }, 3),
            ("never more than max", Look { ready: 100_000, ..NOTHING }, 4),
            ("more places, fewer workers", Look { ready: 25, prefetch: 16, ..NOTHING }, 1),
            ("an old message doubles", Look { ready: 2, oldest: second(6), current: 2, ..NOTHING }, 4),
            (
                "but not again at once",
                Look { ready: 2, oldest: second(6), current: 2, unchanged: second(1), ..NOTHING },
                2,
            ),
            ("one that is worked on is not late", Look { leased: 1, oldest: second(600), current: 1, ..NOTHING }, 1),
            ("down by one", Look { leased: 1, current: 4, ..NOTHING }, 3),
            ("and slowly", Look { leased: 1, current: 4, unchanged: second(10), ..NOTHING }, 4),
            ("not while something waits", Look { ready: 1, current: 4, ..NOTHING }, 4),
            ("the last goes after a quiet while", Look { current: 1, ..NOTHING }, 0),
            ("and not before", Look { current: 1, idle: second(20), ..NOTHING }, 1),
            ("the last stays where one must", Look { min: 1, current: 1, ..NOTHING }, 1),
            ("bounds that shrank hold at once", Look { max: 2, current: 9, ready: 100, ..NOTHING }, 2),
        ] {
            assert_eq!(wanted(&look), expected, "{name}");
        }
    }
}
