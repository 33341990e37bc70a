//! End to end: messages per second from the first request to the last arrival, and the CPU
//! seconds they cost, of the engine and of the floor in turns.

use std::path::Path;

use anyhow::Result;

use crate::{
    contest::{Contestant, Stage},
    figure::Figure,
};

/// Messages before the clock runs.
const WARM_UP: u64 = 3_000;
/// Rounds of each contestant; the median counts.
const ROUNDS: usize = 3;

/// One round of one contestant.
struct Round {
    per_second: f64,
    /// CPU seconds of the system per 1,000 messages.
    cpu: f64,
    /// CPU seconds of the sink per 1,000 messages.
    sink_cpu: f64,
}

/// Measures both in turns.
pub(crate) async fn figures(binary: &Path, messages: u64) -> Result<Vec<Figure>> {
    let (mut engine, mut floor) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        floor.push(one_round(Contestant::Floor, binary, messages).await?);
        engine.push(one_round(Contestant::Engine, binary, messages).await?);
        let rates = (engine[round - 1].per_second, floor[round - 1].per_second);
        eprintln!("round {round}: engine {:.0}/s, floor {:.0}/s", rates.0, rates.1);
    }
    let (engine, floor) = (median(engine), median(floor));
    let cost = |name: &str, seconds: f64| Figure::new(name, format!("{seconds:.3} s"));
    Ok(vec![
        Figure::new("engine, messages per second end to end", format!("{:.0}", engine.per_second)),
        Figure::new("floor, messages per second end to end", format!("{:.0}", floor.per_second)),
        Figure::at_least("engine ÷ floor", engine.per_second / floor.per_second, 0.5, ""),
        cost("engine, CPU seconds per 1,000 messages", engine.cpu),
        cost("floor, CPU seconds per 1,000 messages", floor.cpu),
        cost("sink beside the engine, CPU seconds per 1,000 messages", engine.sink_cpu),
    ])
}

async fn one_round(contestant: Contestant, binary: &Path, messages: u64) -> Result<Round> {
    let stage = Stage::set(contestant, binary).await?;
    stage.load(0, WARM_UP, None).await?;
    stage.all_arrived(WARM_UP).await?;
    let (cpu, sink_cpu) = (stage.system.cpu()?, stage.sink.cpu()?);
    let sent = stage.load(WARM_UP, messages, None).await?;
    let report = stage.all_arrived(WARM_UP + messages).await?;
    let (cpu, sink_cpu) = (stage.system.cpu()? - cpu, stage.sink.cpu()? - sink_cpu);
    let seconds = (report.last - sent.begin) as f64 / 1e6;
    let thousands = messages as f64 / 1e3;
    Ok(Round { per_second: messages as f64 / seconds, cpu: cpu / thousands, sink_cpu: sink_cpu / thousands })
}

/// The round in the middle by speed.
fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    rounds.swap_remove(rounds.len() / 2)
}
