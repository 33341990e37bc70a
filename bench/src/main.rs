//! The project's own benchmarks. `flowline-bench all` prints every figure beside its target;
//! each group also runs alone. See `bench/README.md` for the figures so far.

mod clock;
mod containers;
mod contest;
mod deep;
mod engine;
mod figure;
mod floor;
mod form;
mod latency;
mod load;
mod memory;
mod process;
mod sink;
mod start;
mod story;

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

use load::Load;

/// The same as in the program that is measured: the floor has what the engine has.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures Flowline.
#[derive(Parser)]
struct Bench {
    #[command(subcommand)]
    what: What,
    /// The `flowline` to measure; the release build of this workspace if not given.
    #[arg(long, global = true, env = "FLOWLINE_BIN")]
    binary: Option<PathBuf>,
    /// Messages in each round of `story`.
    #[arg(long, global = true, default_value_t = 50_000)]
    messages: u64,
    /// Seconds of `latency`.
    #[arg(long, global = true, default_value_t = 30)]
    seconds: u64,
    /// Messages that wait in `start`.
    #[arg(long, global = true, default_value_t = 1_000_000)]
    waiting: u64,
    /// Messages that wait in `deep`.
    #[arg(long, global = true, default_value_t = 10_000_000)]
    depth: u64,
}

#[derive(Subcommand)]
enum What {
    /// Every group.
    All,
    /// Webhook, map, HTTP: messages per second and CPU beside the floor.
    Story,
    /// The same at 500 messages per second: how long one takes.
    Latency,
    /// The engine alone.
    Engine,
    /// Resident memory and idle CPU.
    Memory,
    /// Start with an empty store and with a million waiting; binary size.
    Start,
    /// Leasing and settling with ten million messages waiting.
    Deep,
    /// Every step in a container of its own; needs Docker and the images.
    Containers,
    /// A part of the benchmarks: sends forms.
    #[command(hide = true)]
    Load(Load),
    /// A part of the benchmarks: takes and verifies contacts.
    #[command(hide = true)]
    Sink {
        /// The address it listens on.
        #[arg(long, default_value = "127.0.0.1")]
        host: String,
    },
    /// A part of the benchmarks: the work with no engine.
    #[command(hide = true)]
    Floor {
        /// Where bodies are appended.
        file: PathBuf,
        /// Where contacts are posted.
        sink: String,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let bench = Bench::parse();
    match &bench.what {
        What::Load(load) => println!("{}", serde_json::to_string(&load::run(load.clone()).await?)?),
        What::Sink { host } => sink::run(host).await?,
        What::Floor { file, sink } => floor::run(file, sink.clone()).await?,
        What::All => {
            for group in [What::Story, What::Latency, What::Engine, What::Memory, What::Start, What::Deep] {
                bench.measure(&group).await?;
            }
        }
        group => bench.measure(group).await?,
    }
    Ok(())
}

impl Bench {
    async fn measure(&self, group: &What) -> Result<()> {
        let binary = self.binary()?;
        let (title, figures) = match group {
            What::Latency => ("500 messages per second", latency::figures(&binary, self.seconds).await?),
            What::Engine => ("The engine alone", engine::figures().await?),
            What::Memory => ("Memory", memory::figures(&binary).await?),
            What::Start => ("Start", start::figures(&binary, self.waiting).await?),
            What::Deep => ("Deep queues", deep::figures(self.depth).await?),
            What::Containers => {
                ("Steps in containers", containers::figures(&binary, self.messages, self.seconds).await?)
            }
            _ => ("End to end", story::figures(&binary, self.messages).await?),
        };
        figure::print(title, &figures);
        Ok(())
    }

    /// The binary to measure; built now if it is the workspace's own.
    fn binary(&self) -> Result<PathBuf> {
        if let Some(binary) = &self.binary {
            return Ok(binary.clone());
        }
        if let Some(cargo) = std::env::var_os("CARGO") {
            let built = Command::new(cargo).args(["build", "--release", "--quiet", "-p", "flowline-app"]).status()?;
            ensure!(built.success(), "flowline does not build");
        }
        let binary = std::env::current_exe()?.with_file_name("flowline");
        ensure!(binary.exists(), "{} is not there: build it with `cargo build --release`", binary.display());
        binary.canonicalize().context("the path of flowline")
    }
}
