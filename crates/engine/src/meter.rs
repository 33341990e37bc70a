//! Meters: what a step did, in numbers for Prometheus.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use flowline_model::{QueueName, Timestamp};
use flowline_queue::QueueDepth;

/// The numbers of one step.
pub(crate) struct Meter {
    pub(crate) received: Counter,
    pub(crate) emitted: Counter,
    pub(crate) failed: Counter,
    pub(crate) retried: Counter,
    duration: Histogram,
}

impl Meter {
    pub(crate) fn new(step: &QueueName) -> Self {
        let labels = [("flow", step.flow.to_string()), ("step", step.step.to_string())];
        Self {
            received: counter!("flowline_step_messages_in_total", &labels),
            emitted: counter!("flowline_step_messages_out_total", &labels),
            failed: counter!("flowline_step_messages_failed_total", &labels),
            retried: counter!("flowline_step_messages_retried_total", &labels),
            duration: histogram!("flowline_step_duration_seconds", &labels),
        }
    }

    pub(crate) fn took(&self, duration: Duration) {
        self.duration.record(duration);
    }
}

/// Says what the numbers mean; to be called once a recorder is installed.
pub(crate) fn describe() {
    describe_counter!("flowline_step_messages_in_total", "Messages a step received, each attempt counted.");
    describe_counter!("flowline_step_messages_out_total", "Messages a step put onto queues.");
    describe_counter!("flowline_step_messages_failed_total", "Messages of a step that became dead letters.");
    describe_counter!("flowline_step_messages_retried_total", "Attempts of a step that failed and will be repeated.");
    describe_histogram!("flowline_step_duration_seconds", "How long one attempt of a step took.");
    describe_gauge!("flowline_queue_messages", "Messages of a queue by state: ready, leased, delayed, dead.");
    describe_gauge!("flowline_queue_bytes", "Bytes of a queue as stored.");
    describe_gauge!("flowline_queue_oldest_seconds", "Age of the oldest message that waits on a queue.");
}

/// Sets the gauges of the queues.
pub(crate) fn set_depths(depths: &[QueueDepth], now: Timestamp) {
    for depth in depths {
        let labels = [("flow", depth.queue.flow.to_string()), ("step", depth.queue.step.to_string())];
        let states =
            [("ready", depth.ready), ("leased", depth.leased), ("delayed", depth.delayed), ("dead", depth.dead)];
        for (state, count) in states {
            let [flow, step] = labels.clone();
            gauge!("flowline_queue_messages", &[flow, step, ("state", state.to_owned())]).set(as_number(count));
        }
        gauge!("flowline_queue_bytes", &labels).set(as_number(depth.bytes));
        let age = depth.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
        gauge!("flowline_queue_oldest_seconds", &labels).set(age);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a double; counts this large lose nothing that matters")]
fn as_number(count: u64) -> f64 {
    count as f64
}
