//! A seat: what others see and tell of a child process. It never touches the process itself.

use std::sync::{Arc, Mutex, PoisonError};

use flowline_model::Fault;
use flowline_sdk::Presence;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What others see and tell of a child.
pub(super) struct Seat {
    /// It should end when it has finished.
    pub(super) stop: CancellationToken,
    /// It should end now.
    pub(super) kill: CancellationToken,
    state: Mutex<State>,
}

struct State {
    presence: Presence,
    /// Why it was thrown out.
    reason: Option<Fault>,
}

impl Seat {
    pub(super) fn new() -> Arc<Self> {
        let presence =
            Presence { connected: true, consuming: false, holding: 0, holding_since: None, heard: Instant::now() };
        let state = Mutex::new(State { presence, reason: None });
        Arc::new(Self { stop: CancellationToken::new(), kill: CancellationToken::new(), state })
    }

    /// It takes messages from now on, or none any more.
    pub(super) fn takes(&self, takes: bool) {
        self.with(|state| state.presence.consuming = takes);
    }

    /// Why it was thrown out, if it was.
    pub(super) fn reason(&self) -> Option<Fault> {
        self.with(|state| state.reason.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn presence(&self) -> Presence {
        self.with(|state| state.presence)
    }

    /// Ends it; what it holds is given this fault.
    pub(super) fn expel(&self, reason: Fault) {
        self.with(|state| state.reason.get_or_insert(reason).clone());
        self.kill.cancel();
    }

    /// It holds a message from now on, or none any more.
    pub(super) fn holds(&self, holding: bool) {
        let now = Instant::now();
        self.with(|state| {
            state.presence.holding = usize::from(holding);
            state.presence.holding_since = holding.then_some(now);
            state.presence.heard = now;
        });
    }
}
