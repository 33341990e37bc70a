//! The engine alone: an in-process source and two steps that only pass messages on, durable,
//! beside a raw floor that appends and syncs the same bytes in the same batches.
//!
//! A message is three transitions: it comes, the first step replaces it, the last one takes it.

use std::{
    fs::{File, OpenOptions},
    io::{Seek, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use flowline_engine::{Engine, Settings};
use flowline_model::FlowName;
use flowline_sdk::prelude::*;
use tokio::sync::Semaphore;

use crate::{figure::Figure, form::Form};

/// Messages in flight.
const BATCHES: [u32; 3] = [1, 16, 256];
/// How long each batch size is measured.
const PERIOD: Duration = Duration::from_secs(5);
/// The file that the floor writes over and over.
const RECYCLED: usize = 64 << 20;
/// What the floor writes where a message only leaves.
const REMOVAL: usize = 32;

/// Measures every batch size.
pub(crate) async fn figures() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for batch in BATCHES {
        let engine = engine(batch).await?;
        let folder = tempfile::tempdir()?;
        let floor = floor(&folder.path().join("floor"), batch as usize)?;
        let ratio = engine / floor;
        figures.push(Figure::new(format!("{batch} in flight, engine, messages per second"), format!("{engine:.0}")));
        figures.push(Figure::new(format!("{batch} in flight, append and sync"), format!("{floor:.0}")));
        figures.push(Figure::new(format!("{batch} in flight, engine ÷ append and sync"), format!("{ratio:.3}")));
    }
    Ok(figures)
}

/// Messages per second through the engine with so many in flight.
async fn engine(in_flight: u32) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let free = Arc::new(Semaphore::new(in_flight as usize));
    let catalog = Catalog::new([
        Operation::webhook(Source),
        Operation::action(Pass),
        Operation::action(Arrive { free: Arc::clone(&free) }),
    ]);
    let engine = Engine::start(Settings::new(folder.path()), catalog).await?;
    engine.apply(&flow(in_flight)).await?;
    let flow: FlowName = "alone".parse()?;
    let body = serde_json::to_value(Form::numbered(1))?;
    let begin = Instant::now();
    let mut sent = 0_usize;
    while begin.elapsed() < PERIOD {
        free.acquire().await?.forget();
        let more = free.available_permits();
        free.forget_permits(more);
        engine.publish(&flow, vec![body.clone(); more + 1]).await?;
        sent += more + 1;
    }
    let left = free.acquire_many(in_flight).await.context("the engine stopped")?;
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    drop(left);
    engine.shutdown().await;
    Ok(rate)
}

/// The flow; its steps take as many messages at once as are in flight.
fn flow(in_flight: u32) -> String {
    format!(
        "name: alone
steps:
  source: {{ use: bench.source }}
  first: {{ use: bench.pass, after: source, prefetch: {in_flight} }}
  last: {{ use: bench.arrive, after: first, prefetch: {in_flight} }}
"
    )
}

/// Nothing to configure.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A trigger that takes no requests: its messages come from this process.
struct Source;

impl WebhookTrigger for Source {
    type Config = Nothing;

    fn spec() -> OperationSpec {
        OperationSpec::webhook("bench.source", "Source", "Takes what the benchmark publishes.")
    }

    fn accepts(_: &Nothing) -> Accepts {
        Accepts { path: None, methods: Vec::new(), reply_within: None }
    }

    async fn receive(&self, _: &Context, _: Nothing, _: Request) -> Result<Received, Refusal> {
        Err(Refusal::new(405, "no_requests", "messages come from the benchmark"))
    }
}

/// Passes messages on.
struct Pass;

impl Action for Pass {
    type Config = Nothing;

    fn spec() -> OperationSpec {
        OperationSpec::action("bench.pass", "Pass", "Passes messages on.")
    }

    async fn run(&self, _: &Context, _: Nothing, input: Message) -> Result<Vec<Emit>, Fault> {
        Ok(vec![Emit::new(input.body)])
    }
}

/// Takes messages and lets the source send others in their place.
struct Arrive {
    free: Arc<Semaphore>,
}

impl Action for Arrive {
    type Config = Nothing;

    fn spec() -> OperationSpec {
        OperationSpec::action("bench.arrive", "Arrive", "Counts messages.").outputs(Outputs::None)
    }

    async fn run(&self, _: &Context, _: Nothing, _: Message) -> Result<Vec<Emit>, Fault> {
        self.free.add_permits(1);
        Ok(Vec::new())
    }
}

/// Messages per second if nothing were done but to append and sync: one write and one sync for
/// each transition of a batch, into blocks that were written before.
fn floor(path: &Path, batch: usize) -> Result<f64> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.write_all(&vec![1; RECYCLED])?;
    file.sync_all()?;
    file.rewind()?;
    let body = serde_json::to_vec(&Form::numbered(1))?;
    let arrival = body.repeat(batch);
    let replacement = vec![2; (body.len() + REMOVAL) * batch];
    let removal = vec![3; REMOVAL * batch];
    let begin = Instant::now();
    let mut messages = 0_usize;
    while begin.elapsed() < PERIOD {
        for record in [&arrival, &replacement, &removal] {
            append(&mut file, record)?;
        }
        messages += batch;
    }
    Ok(messages as f64 / begin.elapsed().as_secs_f64())
}

fn append(file: &mut File, record: &[u8]) -> Result<()> {
    if file.stream_position()? as usize + record.len() > RECYCLED {
        file.rewind()?;
    }
    file.write_all(record)?;
    Ok(file.sync_data()?)
}
