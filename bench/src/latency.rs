//! Latency at 500 messages per second: from the moment a request is due to be sent to the
//! moment the sink has its message. A slow answer delays no later request.

use std::path::Path;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use crate::{
    contest::{Contestant, Stage},
    figure::Figure,
};

const RATE: u64 = 500;
/// Messages before the clock runs.
const WARM_UP: u64 = 1_500;

/// Measures the floor and the engine.
pub(crate) async fn figures(binary: &Path, seconds: u64) -> Result<Vec<Figure>> {
    let engine = measured(Contestant::Engine, binary, seconds).await?;
    let floor = measured(Contestant::Floor, binary, seconds).await?;
    let millis = |histogram: &Histogram<u64>, quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
    let plain = |name: &str, value: f64| Figure::new(name, format!("{value:.2} ms"));
    Ok(vec![
        Figure::at_most("engine, p50", millis(&engine, 0.5), 5.0, " ms"),
        Figure::at_most("engine, p99", millis(&engine, 0.99), 20.0, " ms"),
        plain("engine, longest", millis(&engine, 1.0)),
        plain("floor, p50", millis(&floor, 0.5)),
        plain("floor, p99", millis(&floor, 0.99)),
        plain("floor, longest", millis(&floor, 1.0)),
    ])
}

/// How long the messages took, in microseconds.
async fn measured(contestant: Contestant, binary: &Path, seconds: u64) -> Result<Histogram<u64>> {
    let stage = Stage::set(contestant, binary).await?;
    stage.load(0, WARM_UP, Some(RATE)).await?;
    stage.all_arrived(WARM_UP).await?;
    let messages = RATE * seconds;
    let sent = stage.load(WARM_UP, messages, Some(RATE)).await?;
    stage.all_arrived(WARM_UP + messages).await?;
    let arrived: Vec<u64> = stage.sink.ask("/times").await?;
    let arrived = arrived.get(usize::try_from(WARM_UP)?..).context("the sink's times are too few")?;
    let mut histogram = Histogram::new(3)?;
    for (sent, arrived) in sent.times.iter().zip(arrived) {
        histogram.record(arrived.saturating_sub(*sent))?;
    }
    Ok(histogram)
}
