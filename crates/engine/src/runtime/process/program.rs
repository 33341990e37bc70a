//! The program of a step: what is started, with which environment and limits.
//!
//! A program gains no privileges, ends with the server however that ends, and has no more memory
//! than it may. The tools for that are part of every Linux (util-linux); where there are none
//! only a limit that was asked for is insisted on.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
};

use flowline_model::{Fault, Size};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::process::{Child, Command};

use super::nursery;
use crate::runtime::Trouble;

/// The environment that a program gets besides its own.
const PASSED_ON: [&str; 3] = ["PATH", "HOME", "LANG"];
/// What bounds the memory of a program.
const PRLIMIT: &str = "prlimit";
/// What keeps a program from gaining privileges and from outliving the server.
const SETPRIV: &str = "setpriv";

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
    pub(super) async fn start(&self) -> Result<Child, Trouble> {
        let program = self.clone();
        nursery::start(move || program.start_here()).await
    }

    fn start_here(&self) -> Result<Child, Trouble> {
        let name = self.command.first().map(String::as_str).unwrap_or_default();
        let failed = |why: String| Trouble::failed(format!("`{name}` cannot be started: {why}"));
        let path = self.env.get("PATH").map(OsString::from).or_else(|| env::var_os("PATH")).unwrap_or_default();
        if find(name, &path).is_none() {
            return Err(failed("there is no such program".to_owned()));
        }
        let mut command = self.command().map_err(failed)?;
        let passed_on = PASSED_ON.into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
        command.env_clear().envs(passed_on).envs(&self.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command.spawn().map_err(|error| failed(error.to_string()))
    }

    /// The program, behind what limits it.
    fn command(&self) -> Result<Command, String> {
        let tools = env::var_os("PATH").unwrap_or_default();
        let mut words: Vec<OsString> = Vec::new();
        if let Some(setpriv) = find(SETPRIV, &tools) {
            words.push(setpriv.into());
            words.extend(["--no-new-privs", "--pdeathsig", "KILL", "--"].map(OsString::from));
        }
        if let Some(memory) = self.memory {
            let prlimit = find(PRLIMIT, &tools)
                .ok_or_else(|| format!("`{PRLIMIT}` is not installed, and `with.memory` needs it"))?;
            words.extend([prlimit.into(), format!("--data={}", memory.0).into(), "--".into()]);
        }
        words.extend(self.command.iter().map(OsString::from));
        let mut command = Command::new(words.remove(0));
        command.args(words);
        Ok(command)
    }
}

/// Where a program is: as its name says, or in one of the folders.
fn find(name: &str, folders: &OsStr) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    env::split_paths(folders).map(|folder| folder.join(Path::new(name))).find(|path| path.is_file())
}
