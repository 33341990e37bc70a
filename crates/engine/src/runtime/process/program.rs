//! The program of a step: what is started, with which environment and limits.

use std::{collections::BTreeMap, process::Stdio};

use flowline_model::{Fault, Size};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::process::{Child, Command};

use crate::runtime::Trouble;

/// The environment that a program gets besides its own.
const PASSED_ON: [&str; 3] = ["PATH", "HOME", "LANG"];
/// What bounds the memory of a program; part of every Linux with util-linux.
const PRLIMIT: &str = "prlimit";

/// What is started.
#[derive(Clone, Deserialize)]
pub(super) struct Program {
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    memory: Option<Size>,
}

impl Program {
    /// The program that the constant part of a configuration says.
    pub(super) fn of(constants: &Map<String, Value>) -> Result<Self, Fault> {
        let invalid = |message: String| Fault::misconfigured("config_invalid", message);
        let program: Self = serde_json::from_value(Value::Object(constants.clone()))
            .map_err(|error| invalid(format!("the program of the step: {error}")))?;
        if program.command.first().is_none_or(String::is_empty) {
            return Err(invalid("`with.command` names a program: it cannot be empty".to_owned()));
        }
        Ok(program)
    }

    /// Starts it: in a process group of its own, with nothing of the server's environment but
    /// what every program needs.
    pub(super) fn start(&self) -> Result<Child, Trouble> {
        let mut command = self.command();
        let passed_on = PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.env_clear().envs(passed_on).envs(&self.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let name = self.command.first().map(String::as_str).unwrap_or_default();
        command.spawn().map_err(|error| Trouble::failed(format!("`{name}` cannot be started: {error}")))
    }

    fn command(&self) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(memory) = self.memory {
            words.extend([PRLIMIT.to_owned(), format!("--data={}", memory.0), "--".to_owned()]);
        }
        words.extend(self.command.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }
}
