//! What the tests with the real binary share: the process that can be killed, the servers it
//! talks to, the clients that talk to it, and the ledger in which both sides are compared.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod client;
pub(crate) mod deliveries;
pub(crate) mod docker;
pub(crate) mod ledger;
pub(crate) mod program;
pub(crate) mod target;

use std::time::{Duration, Instant};

/// The time limit for everything that has to happen in the end, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until a condition holds; says what it waited for when it never does.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A number from the environment, so that a test can be run longer than usual.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")),
        Err(_) => usual,
    }
}
