//! The command line, declared. Every argument that also has an environment variable is a
//! *setting*: the configuration file may give it under its long name, and `flowline config` shows
//! where its value came from. There is no other list of settings.

mod components;

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::Styles, builder::styling::AnsiColor};
use flowline_engine::ExecutionStatus;
use flowline_model::{ExecutionId, FlowName, Lapse, Size, StepId};
use serde_json::{Map, Value};

pub(crate) use components::{
    AddComponent, ComponentModel, Components, ComponentsCommand, ComponentsList, Given, NodeImage, RemoveComponent,
    VerifyComponent,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs integration flows: automated workflows that keep data in step between applications.
#[derive(Debug, Parser)]
#[command(name = "flowline", version, styles = STYLES, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    pub(crate) logging: Logging,

    /// The configuration file [default: flowline.yaml, if it is there] [env: FLOWLINE_CONFIG=]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// What the configuration file says besides settings.
    #[arg(skip)]
    pub(crate) vars: Map<String, Value>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the server: run flows, receive webhooks, answer the API
    Up(Up),
    /// Run one flow in the foreground until all of its work is done
    Run(Run),
    /// Check flow documents and show every problem
    Check(Check),
    /// List the flows that a server runs
    Flows(Flows),
    /// Run a polling trigger now
    Trigger(Trigger),
    /// Pause a flow or a step: what comes waits on the queues
    Pause(Control),
    /// Resume a flow or a step
    Resume(Control),
    /// Take no new input and finish what waits
    Drain(Drain),
    /// Throw away what waits for a step
    Discard(Discard),
    /// Show what waits on every queue
    Queues(Queues),
    /// List executions, or show one
    #[command(args_conflicts_with_subcommands = true)]
    Executions(Executions),
    /// List, show, edit, replay and discard dead letters
    #[command(args_conflicts_with_subcommands = true)]
    DeadLetters(DeadLetters),
    /// List components, show the reference of one, register more
    #[command(args_conflicts_with_subcommands = true)]
    Components(Components),
    /// Run one step's workers; started by Flowline in a container
    Worker,
    /// Check the queue store for damage
    Doctor(Doctor),
    /// Show every setting and where its value came from
    Config(Config),
    /// Print a completion script for a shell
    Completions(Completions),
}

/// How log lines look.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Logging {
    /// How much is logged
    #[arg(long, global = true, env = "FLOWLINE_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub(crate) log_level: LogLevel,

    /// How log lines are written
    #[arg(long, global = true, env = "FLOWLINE_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// A text that cannot print itself.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// The text; only to compare it or to send it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(•••)")
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Reads an address to listen on; `localhost` is its IPv4 one.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let wrong = |_| format!("`{text}` is not an address with a port, such as 127.0.0.1:7700");
    numeric.as_deref().unwrap_or(text).parse().map_err(wrong)
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Data {
    /// The folder that holds everything durable
    #[arg(long, env = "FLOWLINE_DATA", default_value = "./data", value_name = "DIR")]
    pub(crate) data: PathBuf,
}

/// What the engine is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct EngineOptions {
    /// A YAML file of secrets, name: value, that nobody else can read
    #[arg(long, env = "FLOWLINE_SECRETS", value_name = "FILE")]
    pub(crate) secrets: Option<PathBuf>,

    /// How long running steps may take to finish when it stops
    #[arg(long, env = "FLOWLINE_GRACE", default_value = "10s", value_name = "LAPSE")]
    pub(crate) grace: Lapse,

    /// The most messages on one queue, unless its step says otherwise
    #[arg(long, env = "FLOWLINE_QUEUE_MESSAGES", default_value = "20000000", value_name = "COUNT",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) queue_messages: u64,

    /// The most bytes on one queue, unless its step says otherwise
    #[arg(long, env = "FLOWLINE_QUEUE_BYTES", default_value = "64GiB", value_name = "SIZE")]
    pub(crate) queue_bytes: Size,

    /// How long finished executions are kept
    #[arg(long, env = "FLOWLINE_KEEP_AGE", default_value = "7d", value_name = "LAPSE")]
    pub(crate) keep_age: Lapse,

    /// The most bytes of finished messages that are kept
    #[arg(long, env = "FLOWLINE_KEEP_BYTES", default_value = "1GiB", value_name = "SIZE")]
    pub(crate) keep_bytes: Size,

    /// Where steps run that do not say it and can run there: task, which is this process, or docker
    #[arg(long, env = "FLOWLINE_RUNTIME", default_value = "task", value_name = "RUNTIME")]
    pub(crate) runtime: DefaultRuntime,

    /// The image of the containers in which built-in components run
    #[arg(long, env = "FLOWLINE_WORKER_IMAGE", default_value = concat!("flowline:", env!("CARGO_PKG_VERSION")),
          value_name = "IMAGE")]
    pub(crate) worker_image: String,

    /// The Docker network of containers; made if it is not there
    #[arg(long, env = "FLOWLINE_NETWORK", default_value = "flowline", value_name = "NETWORK")]
    pub(crate) network: String,
}

/// Where steps run that do not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DefaultRuntime {
    Task,
    Docker,
}

/// Where the server listens, and what it bears.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// The address to listen on; beyond loopback it needs a token
    #[arg(long, env = "FLOWLINE_LISTEN", default_value = "127.0.0.1:7700", value_name = "ADDR:PORT",
          value_parser = address)]
    pub(crate) listen: SocketAddr,

    /// What callers of the API must send as `Authorization: Bearer`; at least 16 characters
    #[arg(long, env = "FLOWLINE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<Token>,

    /// The most connections at the same time
    #[arg(long, env = "FLOWLINE_CONNECTIONS", default_value = "1024", value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,

    /// How long a connection may be idle, or take to send the head of a request
    #[arg(long, env = "FLOWLINE_HEAD_TIMEOUT", default_value = "30s", value_name = "LAPSE")]
    pub(crate) head_timeout: Lapse,

    /// How long a request's body, or the reader of an answer, may pause
    #[arg(long, env = "FLOWLINE_IDLE_TIMEOUT", default_value = "30s", value_name = "LAPSE")]
    pub(crate) idle_timeout: Lapse,

    /// How long a request's body may take altogether
    #[arg(long, env = "FLOWLINE_BODY_TIMEOUT", default_value = "5m", value_name = "LAPSE")]
    pub(crate) body_timeout: Lapse,
}

/// Which server, or the data folder of a stopped one.
#[derive(Debug, Clone, Args)]
pub(crate) struct Source {
    /// The server to ask [default: the one that runs on the data folder]
    #[arg(long, env = "FLOWLINE_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,

    #[command(flatten)]
    pub(crate) data: Data,

    /// The server's token, if it has one
    #[arg(long, env = "FLOWLINE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<Token>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Flow documents, or folders of them [default: ./flows, if it is there]
    #[arg(value_name = "FILE or DIR")]
    pub(crate) flows: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) data: Data,

    #[command(flatten)]
    pub(crate) listen: Listen,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The flow document
    pub(crate) flow: PathBuf,

    /// Messages in place of the trigger: JSON values one after the other, or one JSON array of
    /// them; `-` reads standard input. Without it a polling trigger runs once
    #[arg(long, short, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// A data folder that stays [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,

    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Flow documents, or folders of them
    #[arg(required = true, value_name = "FILE or DIR")]
    pub(crate) flows: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) data: Data,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Flows {
    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Trigger {
    /// The flow
    pub(crate) flow: FlowName,

    #[command(flatten)]
    pub(crate) source: Source,
}

/// A flow, or one step of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) flow: FlowName,
    pub(crate) step: Option<StepId>,
}

impl FromStr for Target {
    type Err = flowline_model::name::InvalidName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (flow, step) = text.split_once('/').map_or((text, None), |(flow, step)| (flow, Some(step)));
        Ok(Self { flow: flow.parse()?, step: step.map(str::parse).transpose()? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.flow)?;
        self.step.iter().try_for_each(|step| write!(f, "/{step}"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Control {
    /// A flow, or one of its steps
    #[arg(value_name = "FLOW[/STEP]")]
    pub(crate) target: Target,

    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The flow
    pub(crate) flow: FlowName,

    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Discard {
    /// A flow, or one of its steps
    #[arg(value_name = "FLOW[/STEP]")]
    pub(crate) target: Target,

    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,

    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Queues {
    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Executions {
    #[command(subcommand)]
    pub(crate) command: Option<ExecutionsCommand>,

    #[command(flatten)]
    pub(crate) list: ExecutionsList,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExecutionsCommand {
    /// List executions, the newest first
    List(ExecutionsList),
    /// Show one: each step's input, outputs, attempts and errors
    Show {
        /// The execution
        id: ExecutionId,

        #[command(flatten)]
        source: Source,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExecutionsList {
    /// Only of this flow
    #[arg(long)]
    pub(crate) flow: Option<FlowName>,

    /// Only those that stand so: running, done or failed
    #[arg(long)]
    pub(crate) status: Option<ExecutionStatus>,

    /// At most so many
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,

    /// Only those that began before this one
    #[arg(long, value_name = "ID")]
    pub(crate) before: Option<ExecutionId>,

    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    pub(crate) command: Option<DeadLettersCommand>,

    #[command(flatten)]
    pub(crate) list: DeadLettersList,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List dead letters, the oldest first
    List(DeadLettersList),
    /// Show one: its message, cause and attempts
    Show {
        /// The dead letter
        id: u64,

        #[command(flatten)]
        source: Source,
    },
    /// Change the body of one and replay it
    Edit {
        /// The dead letter
        id: u64,

        /// The new body as JSON; `-` reads standard input. Without it $EDITOR opens
        #[arg(long, value_name = "FILE")]
        body: Option<PathBuf>,

        /// Go on with the newest version of the flow
        #[arg(long)]
        newest: bool,

        #[command(flatten)]
        source: Source,
    },
    /// Put dead letters back onto their queues
    Replay {
        #[command(flatten)]
        which: Which,

        /// Go on with the newest version of the flow
        #[arg(long)]
        newest: bool,

        #[command(flatten)]
        source: Source,
    },
    /// Throw dead letters away
    Discard {
        #[command(flatten)]
        which: Which,

        /// Do not ask
        #[arg(long, short)]
        yes: bool,

        #[command(flatten)]
        source: Source,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DeadLettersList {
    #[command(flatten)]
    pub(crate) criteria: Criteria,

    /// At most so many
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,

    /// Only those after this one
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<u64>,

    #[command(flatten)]
    pub(crate) source: Source,
}

/// What dead letters are chosen by.
#[derive(Debug, Clone, Args)]
pub(crate) struct Criteria {
    /// Only of this flow
    #[arg(long)]
    pub(crate) flow: Option<FlowName>,

    /// Only of this step
    #[arg(long)]
    pub(crate) step: Option<StepId>,

    /// Only with this fault code
    #[arg(long)]
    pub(crate) code: Option<String>,
}

/// Which dead letters: by id, by criteria, or all.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// The dead letters
    #[arg(value_name = "ID", conflicts_with_all = ["flow", "step", "code", "all"])]
    pub(crate) ids: Vec<u64>,

    #[command(flatten)]
    pub(crate) criteria: Criteria,

    /// All of them
    #[arg(long, conflicts_with_all = ["flow", "step", "code"])]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) data: Data,

    /// Repair what can be repaired; the damaged file is kept beside the new one
    #[arg(long)]
    pub(crate) repair: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Takes the settings of `up` and of the verbs, to show what would count.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(flatten)]
    pub(crate) data: Data,

    #[command(flatten)]
    pub(crate) listen: Listen,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,

    #[command(flatten)]
    pub(crate) node: NodeImage,

    /// The server that the other commands ask
    #[arg(long, env = "FLOWLINE_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Every setting, as the parser found it.
    #[arg(skip)]
    pub(crate) effective: Vec<crate::config::Effective>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}
