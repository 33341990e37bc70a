//! The commands: one file each.

mod check;
mod completions;
mod components;
mod config;
mod control;
mod dead_letters;
mod doctor;
mod executions;
mod flows;
mod queues;
mod run;
mod up;
mod worker;

use std::{future::Future, process::ExitCode};

use flowline_engine::{DockerSettings, Keep, Settings};
use flowline_model::Runtime;
use flowline_queue::Limits;
use serde::Serialize;

use crate::{
    cli::{Cli, Command, DefaultRuntime, EngineOptions},
    failure::{Doing as _, Outcome},
    secrets,
};

/// Runs what the command line says.
pub(crate) fn run(cli: Cli) -> Outcome {
    let Cli { command, logging, vars, .. } = cli;
    match command {
        Command::Up(up) => wait_for(up::run(up, vars, logging)),
        Command::Run(run) => wait_for(run::run(run, vars, logging)),
        Command::Check(check) => check::run(&check),
        Command::Flows(flows) => wait_for(flows::run(flows)),
        Command::Trigger(trigger) => wait_for(control::trigger(trigger)),
        Command::Pause(control) => wait_for(control::pause(control)),
        Command::Resume(control) => wait_for(control::resume(control)),
        Command::Drain(drain) => wait_for(control::drain(drain)),
        Command::Discard(discard) => wait_for(control::discard(discard)),
        Command::Queues(queues) => wait_for(queues::run(queues)),
        Command::Executions(executions) => wait_for(executions::run(executions)),
        Command::DeadLetters(dead_letters) => wait_for(dead_letters::run(dead_letters)),
        Command::Components(components) => components::run(components),
        Command::Worker => worker::run(),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::Config(config) => config::run(&config, &vars),
        Command::Completions(completions) => Ok(completions::run(&completions)),
    }
}

/// Waits for a command that waits for others.
fn wait_for(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.doing(|| "the program cannot start its threads".to_owned())?.block_on(Box::pin(command))
}

/// The folder of the step gateway, in the data folder.
const GATEWAY: &str = "gateway";

/// What is started in the image that hosts the built-in components.
const WORKER: [&str; 2] = ["flowline", "worker"];

/// What the engine is told. The step gateway listens nowhere before a step needs a container.
async fn settings(
    data: std::path::PathBuf,
    options: &EngineOptions,
    vars: serde_json::Map<String, serde_json::Value>,
) -> Outcome<Settings> {
    let secrets = secrets::read(options.secrets.as_ref())?;
    let mut settings = Settings::new(data);
    settings.vars = vars;
    settings.secrets = flowline_engine::Secrets::new(secrets.values);
    settings.queue_limits = Limits { messages: options.queue_messages, bytes: options.queue_bytes.0 };
    settings.retention = Keep { age: options.keep_age, bytes: options.keep_bytes };
    settings.grace = options.grace.0;
    settings.default_runtime = match options.runtime {
        DefaultRuntime::Task => Runtime::Task,
        DefaultRuntime::Docker => Runtime::Docker,
    };
    let (worker_image, network) = (Some(options.worker_image.clone()), options.network.clone());
    let worker_command = WORKER.map(str::to_owned).to_vec();
    settings.docker = DockerSettings { worker_image, worker_command, network, ..DockerSettings::default() };
    let mut gateway = flowline_gateway::Settings::new(settings.data.join(GATEWAY));
    gateway.variables = settings.vars.clone();
    let gateway = flowline_gateway::Gateway::open(gateway).await;
    settings.gateway =
        Some(gateway.doing(|| format!("the folder {} cannot be used", settings.data.join(GATEWAY).display()))?);
    Ok(settings)
}

/// Prints something as JSON.
fn print_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).doing(|| "the answer cannot be written as JSON".to_owned())?;
    anstream::println!("{text}");
    Ok(ExitCode::SUCCESS)
}
