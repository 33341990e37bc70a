//! The gate before a step: closed while it is paused, narrow while its target is out of reach.
//!
//! When a target fails again and again the step *probes*: one message at a time, at growing
//! intervals, until one succeeds. What waits behind is not touched.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use flowline_model::Fault;
use tokio::{sync::Notify, time::Instant};

/// Failures in a row after which a step probes.
const PATIENCE: u32 = 3;
/// The first wait between probes.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between probes.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The gate before a step.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Told when the gate may have opened or closed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    flow_paused: bool,
    step_paused: bool,
    alert: Option<Fault>,
    outages: u32,
    probe: Option<Probe>,
}

#[derive(Clone, Copy)]
struct Probe {
    wait: Duration,
    next: Instant,
}

/// What may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// As many as the step has workers for.
    Free,
    /// One, and only if none is under way.
    Probe,
    /// One, but not before this instant.
    Wait(Instant),
    /// None until the gate changes.
    Closed,
}

impl Gate {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn passage(&self) -> Passage {
        let now = Instant::now();
        self.with(|state| match state.probe {
            _ if state.flow_paused || state.step_paused => Passage::Closed,
            None => Passage::Free,
            Some(probe) if probe.next <= now => Passage::Probe,
            Some(probe) => Passage::Wait(probe.next),
        })
    }

    /// Waits until the gate may have changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn pause_flow(&self, paused: bool) {
        self.with(|state| state.flow_paused = paused);
        self.changed.notify_one();
    }

    pub(crate) fn pause(&self, alert: Option<Fault>) {
        self.with(|state| {
            state.step_paused = true;
            state.alert = alert;
        });
        self.changed.notify_one();
    }

    pub(crate) fn resume(&self) {
        self.with(|state| *state = State { flow_paused: state.flow_paused, ..State::default() });
        self.changed.notify_one();
    }

    pub(crate) fn alert(&self) -> Option<Fault> {
        self.with(|state| state.alert.clone())
    }

    pub(crate) fn is_step_paused(&self) -> bool {
        self.with(|state| state.step_paused)
    }

    pub(crate) fn is_probing(&self) -> bool {
        self.with(|state| state.probe.is_some())
    }

    /// The target answered.
    pub(crate) fn reached(&self) {
        let was_probing = self.with(|state| {
            state.outages = 0;
            state.probe.take().is_some()
        });
        if was_probing {
            self.changed.notify_one();
        }
    }

    /// The target was out of reach; true when this begins an outage.
    pub(crate) fn missed(&self) -> bool {
        let now = Instant::now();
        let began = self.with(|state| {
            state.outages = state.outages.saturating_add(1);
            let wait = match state.probe {
                None if state.outages < PATIENCE => return false,
                None => FIRST_WAIT,
                // Attempts that were under way when the outage began are no probes.
                Some(probe) if probe.next > now => return false,
                Some(probe) => (probe.wait * 2).min(LONGEST_WAIT),
            };
            let began = state.probe.is_none();
            state.probe = Some(Probe { wait, next: now + wait });
            began
        });
        self.changed.notify_one();
        began
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_narrows_the_gate_until_the_target_answers() {
        let gate = Gate::default();
        assert!(!gate.missed() && !gate.missed());
        assert_eq!(gate.passage(), Passage::Free);
        assert!(gate.missed());
        assert!(matches!(gate.passage(), Passage::Wait(_)));
        tokio::time::advance(FIRST_WAIT).await;
        assert_eq!(gate.passage(), Passage::Probe);
        assert!(!gate.missed());
        tokio::time::advance(FIRST_WAIT).await;
        assert!(matches!(gate.passage(), Passage::Wait(_)), "the second wait is longer");
        gate.reached();
        assert_eq!(gate.passage(), Passage::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_gate_is_closed_whoever_paused_it() {
        let gate = Gate::default();
        gate.pause(Some(Fault::unauthorized("http_401", "no")));
        gate.pause_flow(true);
        gate.resume();
        assert_eq!(gate.passage(), Passage::Closed);
        gate.pause_flow(false);
        assert_eq!(gate.passage(), Passage::Free);
        assert_eq!(gate.alert(), None);
    }
}
