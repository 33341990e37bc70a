//! Steps in containers: the work of `story` with both actions in containers of their own, what a
//! container takes, how soon one is there, and a component of elastic.io in one step.
//!
//! Needs a Docker engine and the images of `make images`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use serde::Deserialize;

use crate::{
    clock,
    figure::Figure,
    form,
    load::Sent,
    process::{self, Installation, Process},
    sink::Report,
};

/// Messages before the clock runs.
const WARM_UP: u64 = 300;
/// Messages per second of the measurement of latency.
const RATE: u64 = 200;
/// Messages through a component of elastic.io.
const COMPONENT_MESSAGES: u64 = 5_000;
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures with one message at a time in each container, as by default, and with many.
pub(crate) async fn figures(binary: &Path, messages: u64, seconds: u64) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for prefetch in [1, 16] {
        let stage = Stage::set(binary, |url| in_containers(url, prefetch)).await?;
        let words = format!("prefetch {prefetch}");
        figures.extend(stage.throughput(&words, if prefetch == 1 { messages / 10 } else { messages / 2 }).await?);
        if prefetch == 1 {
            figures.extend(stage.memory()?);
            figures.extend(stage.latency(seconds).await?);
        }
        stage.end()?;
    }
    let stage = Stage::set(binary, on_demand).await?;
    figures.push(stage.first_message().await?);
    stage.end()?;
    for prefetch in [1, 50] {
        figures.push(component(binary, prefetch).await?);
    }
    Ok(figures)
}

/// The flow of `story`, its actions in containers.
fn in_containers(url: &str, prefetch: u32) -> String {
    let flow = form::flow("story", url);
    let flow = flow.replacen("steps:", "runtime: docker\nsteps:", 1);
    flow.replace("    after:", &format!("    prefetch: {prefetch}\n    after:"))
}

/// One step whose container is only there while there is work.
fn on_demand(url: &str) -> String {
    let there_is_work = "    after: contact\n    runtime: docker\n    workers: { min: 0, max: 1 }";
    form::flow("story", url).replace("    after: contact", there_is_work)
}

/// What `docker` says.
fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).output().context("docker is not installed")?;
    let trouble = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "docker {arguments:?}: {trouble}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The network of the containers; removed when it is dropped.
struct Network {
    name: String,
    address: String,
}

impl Network {
    fn new() -> Result<Self> {
        let name = format!("flowline-bench-{}", std::process::id());
        docker(&["network", "create", &name])?;
        let format = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
        let address = docker(&["network", "inspect", &name, "--format", format])?;
        Ok(Self { name, address })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nobody could do more about it.
        let _ = docker(&["network", "rm", &self.name]);
    }
}

/// A server whose steps run in containers, and the sink behind them.
struct Stage {
    server: Process,
    sink: Process,
    installation: Installation,
    _network: Network,
}

impl Stage {
    async fn set(binary: &Path, flow: impl Fn(&str) -> String) -> Result<Self> {
        let network = Network::new()?;
        let sink = Process::of_this(&["sink", "--host", &network.address])?;
        let text = flow(&format!("http://{}/contacts", sink.address));
        let installation = Installation::new(binary, [("story".to_owned(), text)])?;
        let installation = installation.with("FLOWLINE_NETWORK", &network.name);
        let server = installation.up().await?;
        Ok(Self { server, sink, installation, _network: network })
    }

    fn end(self) -> Result<()> {
        self.server.end()
    }

    async fn load(&self, first: u64, messages: u64, rate: Option<u64>) -> Result<Sent> {
        let mut arguments = vec![
            "load".to_owned(),
            format!("--address={}", self.server.address),
            "--path=/hook/story".to_owned(),
            format!("--first={first}"),
            format!("--messages={messages}"),
        ];
        arguments.extend(rate.map(|rate| format!("--rate={rate}")));
        process::run(arguments).await
    }

    async fn all_arrived(&self, messages: u64) -> Result<Report> {
        let begin = Instant::now();
        loop {
            let report: Report = self.sink.ask("/report").await?;
            ensure!(report.wrong == 0, "the sink saw something wrong: {report:?}");
            if report.distinct >= messages {
                return Ok(report);
            }
            ensure!(begin.elapsed() < PATIENCE, "of {messages} messages this arrived: {report:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Messages per second from the first request to the last arrival, and their CPU.
    async fn throughput(&self, words: &str, messages: u64) -> Result<Vec<Figure>> {
        self.load(0, WARM_UP, None).await?;
        self.all_arrived(WARM_UP).await?;
        let before = self.server.cpu()? + self.cpu_of_containers()?;
        let sent = self.load(WARM_UP, messages, None).await?;
        let report = self.all_arrived(WARM_UP + messages).await?;
        let cpu = self.server.cpu()? + self.cpu_of_containers()? - before;
        let rate = messages as f64 / ((report.last - sent.begin) as f64 / 1e6);
        let cost = cpu / (messages as f64 / 1e3);
        Ok(vec![
            Figure::new(format!("messages per second, {words}"), format!("{rate:.0}")),
            Figure::new(format!("CPU seconds per 1,000 messages, {words}"), format!("{cost:.3} s")),
        ])
    }

    async fn latency(&self, seconds: u64) -> Result<Vec<Figure>> {
        let first = self.sink.ask::<Report>("/report").await?.distinct;
        let messages = RATE * seconds;
        let sent = self.load(first, messages, Some(RATE)).await?;
        self.all_arrived(first + messages).await?;
        let arrived: Vec<u64> = self.sink.ask("/times").await?;
        let arrived = arrived.get(usize::try_from(first)?..).context("the sink's times are too few")?;
        let mut histogram = Histogram::<u64>::new(3)?;
        for (sent, arrived) in sent.times.iter().zip(arrived) {
            histogram.record(arrived.saturating_sub(*sent))?;
        }
        let at = |name: &str, quantile: f64| {
            Figure::new(name, format!("{:.2} ms", histogram.value_at_quantile(quantile) as f64 / 1e3))
        };
        Ok(vec![at("p50 at 200 messages per second", 0.5), at("p99 at 200 messages per second", 0.99)])
    }

    /// Resident memory of each step's container.
    fn memory(&self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for step in ["contact", "push"] {
            let mut most: f64 = 0.0;
            for worker in self.workers(Some(step))? {
                most = most.max(process::memory_of(worker)?);
            }
            figures.push(Figure::at_most(format!("resident memory, container of `{step}`"), most, 25.0, " MB"));
        }
        Ok(figures)
    }

    fn cpu_of_containers(&self) -> Result<f64> {
        self.workers(None)?.into_iter().map(process::cpu_of).sum()
    }

    /// The processes of `flowline worker` in the containers.
    fn workers(&self, step: Option<&str>) -> Result<Vec<u32>> {
        let mut workers = Vec::new();
        for container in self.containers(step)? {
            let listed = docker(&["top", &container, "-eo", "pid,args"])?;
            let lines = listed.lines().filter(|line| line.contains("flowline worker") && !line.contains("init"));
            workers.extend(lines.filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok()));
        }
        Ok(workers)
    }

    fn containers(&self, step: Option<&str>) -> Result<Vec<String>> {
        let server = fs::read_to_string(self.installation.path("data").join("server"))?;
        let server = format!("label=io.flowline.server={}", server.trim());
        let mut arguments = vec!["ps".to_owned(), "--quiet".to_owned(), "--filter".to_owned(), server];
        if let Some(step) = step {
            arguments.extend(["--filter".to_owned(), format!("label=io.flowline.step={step}")]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(docker(&arguments)?.lines().map(str::to_owned).collect())
    }

    /// From a message that nobody waits for to its arrival: the median of some.
    async fn first_message(&self) -> Result<Figure> {
        let mut took = Vec::new();
        for number in 0..3 {
            self.until(async || Ok(self.containers(None)?.is_empty())).await?;
            let begin = clock::micros();
            self.load(number, 1, None).await?;
            let report = self.all_arrived(number + 1).await?;
            took.push((report.last - begin) as f64 / 1e6);
        }
        took.sort_by(f64::total_cmp);
        Ok(Figure::at_most("from no container to the first message out of one", took[took.len() / 2], 1.5, " s"))
    }

    async fn until(&self, holds: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        while !holds().await? {
            ensure!(begin.elapsed() < PATIENCE, "waited in vain");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Messages that wait anywhere.
    async fn waiting(&self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Queues {
            queues: Vec<Depth>,
        }
        #[derive(Deserialize)]
        struct Depth {
            ready: u64,
            leased: u64,
            delayed: u64,
        }
        let queues: Queues = self.server.ask("/api/v1/queues").await?;
        Ok(queues.queues.iter().map(|queue| queue.ready + queue.leased + queue.delayed).sum())
    }
}

/// Messages per second through the sample component, which is made for elastic.io.
async fn component(binary: &Path, prefetch: u32) -> Result<Figure> {
    let network = Network::new()?;
    let flow = format!(
        "name: story\nsteps:\n  form: {{ use: webhook.receive }}\n  \
         pass: {{ use: sample.pass, after: form, prefetch: {prefetch}, with: {{ credential: {{ token: sample }} }} }}\n"
    );
    let installation = Installation::new(binary, [("story".to_owned(), flow)])?;
    let installation = installation.with("FLOWLINE_NETWORK", &network.name);
    let sample = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/components/sample-node");
    installation.command(&["components", "add", &sample.display().to_string(), "--name", "sample"])?;
    let (server, sink) = (installation.up().await?, Process::of_this(&["sink"])?);
    let stage = Stage { server, sink, installation, _network: network };
    stage.load(0, WARM_UP, None).await?;
    stage.until(async || Ok(stage.waiting().await? == 0)).await?;
    let begin = Instant::now();
    stage.load(WARM_UP, COMPONENT_MESSAGES, None).await?;
    stage.until(async || Ok(stage.waiting().await? == 0)).await?;
    let rate = COMPONENT_MESSAGES as f64 / begin.elapsed().as_secs_f64();
    stage.end()?;
    let name = format!("messages per second through a component of elastic.io, prefetch {prefetch}");
    Ok(Figure::new(name, format!("{rate:.0}")))
}
