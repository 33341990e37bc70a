//! `flowline up`: the server, from its start to its orderly end.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use flowline_engine::{Engine, FlowStatus};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{flows::trigger, settings};
use crate::{
    api::{self, About, Api},
    cli::{Logging, Up},
    failure::{Doing as _, Failure, Outcome},
    guard::Guard,
    logging,
    lookup::{ADDRESS_FILE, Address},
    registry,
    render::count,
    server::{self, Server},
    watch::Watch,
};

/// The folder whose flows run if no other is named.
const DEFAULT_FLOWS: &str = "flows";
/// How often what the metrics gathered is put in order.
const UPKEEP: Duration = Duration::from_secs(5);
/// The bounds of durations in metrics, in seconds.
const DURATIONS: [f64; 13] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0];

pub(super) async fn run(options: Up, vars: Map<String, Value>, logging: Logging) -> Outcome {
    logging::start(&logging, None);
    let paths = flow_paths(&options)?;
    let listener = server::listen(&options.listen).await?;
    let metrics = record_metrics()?;
    let (requests, steps) = shares(options.engine.grace.0);
    let mut settings = settings(options.data.data.clone(), &options.engine, vars).await?;
    settings.grace = steps;
    let registry = registry::read(&options.data.data)?;
    let engine = Engine::start(settings, registry.catalog()).await?;
    let mut watch = Watch::new(engine.clone(), paths, logging.log_format);
    if let Err(failure) = begin(&mut watch, &engine).await {
        engine.shutdown().await;
        return Err(failure);
    }
    let url = announce(&listener, &options.data.data, &engine)?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(watch.run(stop.clone()));
    tasks.spawn(keep_up(metrics.clone(), stop.clone()));
    let api = Api { engine: engine.clone(), registry, metrics, about: about(&options) };
    let guard = Guard::new(options.listen.listen, options.listen.token.clone());
    let server = Server::new(engine.clone(), api::router(api, guard), &options.listen);
    let serving = tokio::spawn(server.serve(listener, stop.clone(), requests));
    let signal = signalled().await;
    tracing::info!("{signal}: stopping; once more stops at once");
    tokio::spawn(async {
        signalled().await;
        std::process::exit(130);
    });
    stop.cancel();
    let _ended = serving.await;
    tasks.close();
    tasks.wait().await;
    engine.shutdown().await;
    // Without a server there is no address; if the file stays, readers notice that nobody answers.
    let _removed = std::fs::remove_file(options.data.data.join(ADDRESS_FILE));
    tracing::info!(%url, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// The files and folders of flows: those that are named, or `./flows`.
fn flow_paths(options: &Up) -> Outcome<Vec<PathBuf>> {
    if options.flows.is_empty() {
        let default = PathBuf::from(DEFAULT_FLOWS);
        return Ok(if default.is_dir() { vec![default] } else { Vec::new() });
    }
    for path in &options.flows {
        std::fs::metadata(path).doing(|| format!("{} cannot be read", path.display()))?;
    }
    Ok(options.flows.clone())
}

/// The time for requests under way to end, and that for steps: together the time of grace.
fn shares(grace: Duration) -> (Duration, Duration) {
    let requests = grace / 4;
    (requests, grace - requests)
}

fn record_metrics() -> Outcome<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().set_buckets(&DURATIONS).and_then(PrometheusBuilder::install_recorder);
    recorder.doing(|| "the metrics cannot be recorded".to_owned())
}

async fn keep_up(metrics: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(UPKEEP) => metrics.run_upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

/// Starts the flows. With documents of which none can run there is nothing to serve.
async fn begin(watch: &mut Watch, engine: &Engine) -> Outcome<()> {
    let (running, not) = watch.begin().await;
    let active = engine.flows().iter().any(|flow| flow.active);
    if running == 0 && not > 0 && !active {
        return Err(
            Failure::new("none of the flows can run").hint("`flowline check` shows every problem of a flow document")
        );
    }
    if not > 0 {
        tracing::warn!("{} not applied; the others run", count(not, "flow document"));
    }
    Ok(())
}

fn about(options: &Up) -> About {
    let data = std::fs::canonicalize(&options.data.data).unwrap_or_else(|_| options.data.data.clone());
    About { version: env!("CARGO_PKG_VERSION").to_owned(), data, process: std::process::id() }
}

/// Says where everything is, to people and to other commands.
fn announce(listener: &TcpListener, data: &Path, engine: &Engine) -> Outcome<String> {
    let address = listener.local_addr().doing(|| "the server's address is not known".to_owned())?;
    let url = format!("http://{address}");
    let file = serde_json::to_string(&Address { url: url.clone(), process: std::process::id() });
    let file = file.doing(|| "the server's address cannot be written".to_owned())?;
    let path = data.join(ADDRESS_FILE);
    std::fs::write(&path, file).doing(|| format!("{} cannot be written", path.display()))?;
    anstream::println!("\x1b[1mflowline {}\x1b[0m", env!("CARGO_PKG_VERSION"));
    anstream::println!("  data     {}", data.display());
    anstream::println!("  address  {url}");
    let flows: Vec<FlowStatus> = engine.flows().into_iter().filter(|flow| flow.active).collect();
    if flows.is_empty() {
        anstream::println!("  flows    none: name flow documents or folders of them, or put some into ./flows");
    }
    for (index, flow) in flows.iter().enumerate() {
        let heading = if index == 0 { "flows" } else { "" };
        let begins = if flow.hook.is_some() { format!("{url}{}", trigger(flow)) } else { trigger(flow) };
        let state = if flow.paused { ", paused" } else { "" };
        anstream::println!("  {heading:<7}  {} (version {}{state}): {begins}", flow.name, flow.version);
    }
    Ok(url)
}

/// Waits until the process is asked to stop.
pub(super) async fn signalled() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            return tokio::select! {
                _ = tokio::signal::ctrl_c() => "interrupted",
                _ = terminate.recv() => "asked to stop",
            };
        }
    }
    let _ = tokio::signal::ctrl_c().await;
    "interrupted"
}
