//! `flowline run`: one flow in the foreground, until all of its work is done.

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flowline_engine::{ApplyError, Engine, EngineError, Execution, ExecutionFilter};
use flowline_model::{Fault, FlowName, OperationKind, Plan, Timestamp};
use flowline_queue::{DeadLetter, DeadLetterFilter, QueueError};
use flowline_sdk::{Catalog, Context, ErasedPolling, Operation, PolledValue, Run as Code};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{dead_letters, print_json, settings};
use crate::{
    cli::{Logging, Run},
    failure::{Doing as _, Failure, Outcome},
    files,
    inputs::{self, Inputs},
    logging, registry,
    render::{self, count},
    table,
};

/// Messages of the flow that may wait before further input is read.
const MOST_WAITING: u64 = 10_000;
/// How often it looks whether all is done.
const LOOK: Duration = Duration::from_millis(20);
/// Dead letters that are listed.
const MOST_LISTED: usize = 20;

pub(super) async fn run(options: Run, vars: Map<String, Value>, logging: Logging) -> Outcome {
    let text = files::text(&options.flow)?;
    let catalog = match &options.data {
        Some(data) => registry::read(data)?.catalog(),
        None => flowline_components::catalog(),
    };
    let plan = check(&options, &text, &catalog)?;
    let inputs = options.input.as_ref().map(|path| inputs::read(path)).transpose()?;
    let kind = plan.trigger().kind;
    if inputs.is_none() && kind == OperationKind::Webhook {
        return Err(Failure::usage(format!(
            "the trigger of `{}` waits for requests, so there is nothing to run",
            plan.flow
        ))
        .hint("give messages in its place with `--input FILE`, or serve it with `flowline up`"));
    }
    let (bars, bar) = progress();
    logging::start(&logging, Some(bars));
    let temporary = temporary(&options)?;
    let data = options.data.clone().or_else(|| temporary.as_ref().map(|folder| folder.path().to_owned()));
    let mut settings = settings(data.unwrap_or_default(), &options.engine, vars).await?;
    // What is not finished on a temporary folder is gone anyway.
    if temporary.is_some() {
        settings.grace = settings.grace.min(Duration::from_secs(1));
    }
    let polled = Arc::new(AtomicBool::new(inputs.is_some()));
    let engine = Engine::start(settings, quietened(catalog, &plan, &polled)).await?;
    let mut work = Work { engine, plan, polled, bar, dead_before: 0, started: Instant::now(), began_at: table::now() };
    work.dead_before = work.standing().await?.dead;
    let result = tokio::select! {
        result = work.finish(&text, inputs) => result,
        _ = tokio::signal::ctrl_c() => Err(interrupted(&options)),
    };
    work.bar.finish_and_clear();
    let result = match result {
        Ok(summary) => summary.tell(options.json, &work.plan.flow),
        Err(failure) => Err(failure),
    };
    work.engine.shutdown().await;
    result
}

fn check(options: &Run, text: &str, catalog: &Catalog) -> Outcome<Plan> {
    let operations = catalog.specs().map(|spec| (spec.name.clone(), Arc::clone(spec))).collect();
    flowline_model::check(text, &operations).map_err(|problems| {
        render::print(&options.flow, text, &problems);
        let problems = count(problems.len(), "problem");
        Failure::new(format!("the flow {} cannot run: it has {problems}", options.flow.display()))
    })
}

fn progress() -> (MultiProgress, ProgressBar) {
    let on_terminal = std::io::stderr().is_terminal();
    let target = if on_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bars = MultiProgress::with_draw_target(target);
    let style = ProgressStyle::with_template("{spinner} {elapsed}  {msg}");
    let bar =
        bars.add(ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())));
    (bars, bar)
}

fn temporary(options: &Run) -> Outcome<Option<tempfile::TempDir>> {
    if options.data.is_some() {
        return Ok(None);
    }
    let folder = tempfile::Builder::new().prefix("flowline-").tempdir();
    folder.map(Some).doing(|| "no temporary data folder can be made".to_owned())
}

fn interrupted(options: &Run) -> Failure {
    let failure = Failure::new("interrupted before all was done");
    match &options.data {
        Some(data) => failure.hint(format!("what waits stays in {}; run again to go on", data.display())),
        None => failure.hint("the temporary data is gone; `--data DIR` keeps it"),
    }
}

/// The catalog with the flow's own trigger made quiet once it has polled: a schedule must not
/// begin further executions while this one is waited for.
fn quietened(catalog: Catalog, plan: &Plan, polled: &Arc<AtomicBool>) -> Catalog {
    let trigger = &plan.trigger().operation;
    let names: Vec<String> = catalog.specs().map(|spec| spec.name.clone()).collect();
    let operations = names.iter().filter_map(|name| catalog.get(name).cloned());
    Catalog::new(operations.map(|operation| match operation {
        Operation { spec, run: Code::Polling(inner) } if spec.name == *trigger => {
            Operation { spec, run: Code::Polling(Arc::new(PollsOnce { inner, polled: Arc::clone(polled) })) }
        }
        operation => operation,
    }))
}

/// A polling trigger that is quiet once it has polled.
struct PollsOnce {
    inner: Arc<dyn ErasedPolling>,
    polled: Arc<AtomicBool>,
}

#[async_trait]
impl ErasedPolling for PollsOnce {
    async fn poll(&self, cx: &Context, config: Value, since: Option<Value>) -> Result<PolledValue, Fault> {
        if self.polled.load(Ordering::Acquire) {
            let snapshot =
                since.ok_or_else(|| Fault::outage("not_polled", "this run takes its input from elsewhere"))?;
            return Ok(PolledValue { emits: Vec::new(), snapshot, more: false });
        }
        let brought = self.inner.poll(cx, config, since).await?;
        if !brought.more {
            self.polled.store(true, Ordering::Release);
        }
        Ok(brought)
    }
}

/// One flow and what is to be done for it.
struct Work {
    engine: Engine,
    plan: Plan,
    polled: Arc<AtomicBool>,
    bar: ProgressBar,
    dead_before: u64,
    started: Instant,
    began_at: Timestamp,
}

/// How the queues of the flow stand.
#[derive(Default)]
struct Standing {
    /// Messages that wait or are worked on, but for the ticks of a schedule.
    waiting: u64,
    /// Of these, how many wait for their next attempt.
    delayed: u64,
    dead: u64,
}

/// What came of it.
struct Summary {
    inputs: Option<u64>,
    /// Executions that began in this run.
    begun: u64,
    dead: u64,
    listed: Vec<DeadLetter>,
    /// Why the input ended early.
    broken: Option<String>,
    took: Duration,
}

impl Work {
    /// Applies the flow, feeds it, and waits until nothing of it waits any more.
    async fn finish(&self, text: &str, inputs: Option<Inputs>) -> Outcome<Summary> {
        let before = self.last_dead_letter().await?;
        self.engine.apply(text).await.map_err(|error| match error {
            ApplyError::Other(error) => error.into(),
            error => Failure::new(format!("the flow cannot run: {error}")),
        })?;
        let (mut number, mut broken) = (None, None);
        match inputs {
            Some(inputs) => {
                (number, broken) = self.feed(inputs).await.map(|(number, broken)| (Some(number), broken))?
            }
            None => self.engine.run_now(&self.plan.flow).await?,
        }
        self.wait_until(|standing| standing.waiting == 0).await?;
        self.engine.caught_up().await?;
        let (dead, listed) = self.dead_letters_after(before).await?;
        let begun = self.executions_begun().await?;
        Ok(Summary { inputs: number, begun, dead, listed, broken, took: self.started.elapsed() })
    }

    /// Publishes the inputs, never many more than the flow keeps up with.
    async fn feed(&self, mut inputs: Inputs) -> Outcome<(u64, Option<String>)> {
        let mut number = 0;
        while let Some(batch) = inputs.recv().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(broken) => return Ok((number, Some(broken))),
            };
            number += batch.len() as u64;
            self.publish(batch).await?;
            self.wait_until(|standing| standing.waiting < MOST_WAITING).await?;
        }
        Ok((number, None))
    }

    async fn publish(&self, batch: Vec<Value>) -> Outcome<()> {
        if batch.is_empty() {
            return Ok(());
        }
        loop {
            match self.engine.publish(&self.plan.flow, batch.clone()).await {
                Ok(_) => return Ok(()),
                Err(EngineError::Queue(QueueError::Full { .. })) => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the queues stand so, and the trigger has polled.
    async fn wait_until(&self, enough: impl Fn(&Standing) -> bool) -> Outcome<()> {
        loop {
            let standing = self.standing().await?;
            self.show(&standing);
            let polled = self.polled.load(Ordering::Acquire) || standing.dead > self.dead_before;
            if polled && enough(&standing) {
                return Ok(());
            }
            self.look_for_alerts()?;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn standing(&self) -> Outcome<Standing> {
        let depths = self.engine.records().queues().await?;
        let mut standing = Standing::default();
        for depth in depths.iter().filter(|depth| depth.queue.flow == self.plan.flow) {
            standing.dead += depth.dead;
            // On the queue of a trigger wait only ticks; a poll under way is leased.
            let of_trigger = depth.queue.step == self.plan.trigger;
            standing.waiting += depth.leased + if of_trigger { 0 } else { depth.ready + depth.delayed };
            standing.delayed += if of_trigger { 0 } else { depth.delayed };
        }
        Ok(standing)
    }

    fn show(&self, standing: &Standing) {
        let Standing { waiting, delayed, dead } = standing;
        self.bar.set_message(format!("{waiting} waiting, {delayed} for another attempt, {dead} dead"));
        self.bar.tick();
    }

    /// A step that paused itself would be waited for without end.
    fn look_for_alerts(&self) -> Outcome<()> {
        let flow = self.engine.flows().into_iter().find(|flow| flow.name == self.plan.flow);
        let steps = flow.into_iter().flat_map(|flow| flow.steps);
        match steps.filter_map(|step| Some((step.id, step.alert?))).next() {
            None => Ok(()),
            Some((step, fault)) => {
                Err(Failure::new(format!("the step `{step}` has paused itself: {} ({})", fault.message, fault.code))
                    .hint("correct its configuration or credential and run again"))
            }
        }
    }

    /// How many executions began since this run did; a poll that only failed began none.
    async fn executions_begun(&self) -> Outcome<u64> {
        let mut filter = ExecutionFilter { flow: Some(self.plan.flow.clone()), limit: 1_000, ..Default::default() };
        let mut number = 0;
        loop {
            let page = self.engine.records().executions(&filter).await?;
            let recent = page.iter().take_while(|execution| execution.started_at >= self.began_at);
            let recent: Vec<&Execution> = recent.collect();
            let only_failed = |execution: &Execution| execution.retried > 0 && execution.done + execution.dead == 0;
            number += recent.iter().filter(|execution| !only_failed(execution)).count() as u64;
            if recent.len() < filter.limit as usize {
                return Ok(number);
            }
            filter.before = recent.last().map(|execution| execution.id);
        }
    }

    fn filter(&self, after: u64) -> DeadLetterFilter {
        DeadLetterFilter { flow: Some(self.plan.flow.clone()), after: Some(after), ..DeadLetterFilter::default() }
    }

    /// The last dead letter there is; those of this run come after it.
    async fn last_dead_letter(&self) -> Outcome<u64> {
        let mut last = 0;
        while let Some(letter) = self.engine.records().dead_letters(&self.filter(last), 1_000).await?.last() {
            last = letter.id;
        }
        Ok(last)
    }

    /// How many dead letters came after one, and the first of them.
    async fn dead_letters_after(&self, before: u64) -> Outcome<(u64, Vec<DeadLetter>)> {
        let (mut number, mut listed, mut last) = (0, Vec::new(), before);
        loop {
            let page = self.engine.records().dead_letters(&self.filter(last), 1_000).await?;
            let Some(letter) = page.last() else { return Ok((number, listed)) };
            last = letter.id;
            number += page.len() as u64;
            listed.extend(page.into_iter().take(MOST_LISTED - listed.len().min(MOST_LISTED)));
        }
    }
}

impl Summary {
    /// Says what came of it; dead letters and broken input are a failure.
    fn tell(self, as_json: bool, flow: &FlowName) -> Outcome {
        let Self { inputs, begun, dead, listed, broken, took } = self;
        if as_json {
            print_json(&json!({
                "flow": flow, "inputs": inputs, "executions": begun, "dead_letters": dead, "input_error": broken,
                "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "first_dead_letters": listed,
            }))?;
        } else {
            if !listed.is_empty() {
                dead_letters::print(&listed);
            }
            let begun = inputs.map_or_else(|| plural(begun, "execution"), |number| plural(number, "input"));
            anstream::println!("{flow}: {begun}, {}, {}", plural(dead, "dead letter"), table::lapse(took));
        }
        if let Some(broken) = broken {
            let before = plural(inputs.unwrap_or_default(), "value");
            return Err(Failure::new(format!("the input is not JSON after {before}: {broken}"))
                .hint("write one JSON value after the other, or one array of them"));
        }
        Ok(if dead > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn plural(number: u64, word: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), word)
}
