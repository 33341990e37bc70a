//! Configuration: what flags, environment and file say together.
//!
//! The arguments of the command line are the only declaration. A configuration file sets the
//! defaults of those that are settings, so a flag counts before the environment, the environment
//! before the file, and the file before what is built in.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgMatches, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use flowline_model::{
    Problem, ProblemCode,
    document::{self, Content, Entry, Node},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    cli::{Cli, Command},
    failure::{Failure, Outcome},
    render,
};

/// The file that is read if no other is named.
pub(crate) const DEFAULT_FILES: [&str; 2] = ["flowline.yaml", "flowline.yml"];
/// Settings whose values nobody is shown.
const HIDDEN: [&str; 1] = ["token"];

/// A setting with the value that counts.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Effective {
    /// Its long name.
    pub(crate) name: String,
    /// Its value; none if it has none.
    pub(crate) value: Option<String>,
    /// Where that came from.
    pub(crate) from: String,
}

/// Reads the command line together with the configuration file.
pub(crate) fn read_arguments() -> Outcome<Cli> {
    let arguments: Vec<OsString> = env::args_os().collect();
    let file = find(&arguments).map(|path| File::read(&path)).transpose()?.unwrap_or_default();
    let matches = file.set_defaults(Cli::command()).get_matches_from(arguments);
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let (Command::Config(config), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
        config.effective = effective(matches, &file);
    }
    cli.vars = file.vars;
    Ok(cli)
}

/// The configuration file: the one that is named, or the one that lies here.
fn find(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        if text == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    let named = env::var_os("FLOWLINE_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
    named.or_else(|| DEFAULT_FILES.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// What a configuration file says.
#[derive(Debug, Default)]
struct File {
    path: PathBuf,
    /// The value of each setting and the line it stands on.
    settings: BTreeMap<String, (String, usize)>,
    vars: Map<String, Value>,
    /// Texts that must not be drawn: secrets in the wrong place.
    hidden: Vec<String>,
}

impl File {
    fn read(path: &Path) -> Outcome<Self> {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("the configuration file {} cannot be read: {error}", path.display()))
                .hint("name another one with `--config FILE`")
        })?;
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        let mut problems = Vec::new();
        match document::read(&text) {
            Ok(node) if matches!(node.content, Content::Map(_)) => {
                node.entries().iter().for_each(|entry| file.take(entry, &mut problems));
            }
            Ok(node) if node.content == Content::Scalar(Value::Null) => {}
            Ok(node) => problems.push(Problem::new(
                ProblemCode::WrongType,
                node.span,
                format!("a configuration is a map of settings, not {}", node.kind()),
            )),
            Err(found) => problems = found,
        }
        if problems.is_empty() {
            return Ok(file);
        }
        let text = file.hidden.iter().fold(text, |text, hidden| text.replace(hidden.as_str(), "•••"));
        render::print(path, &text, &problems);
        Err(Failure::usage(format!("the configuration file {} cannot be used", path.display())))
    }

    /// Takes one entry, or notes what is wrong with it.
    fn take(&mut self, entry: &Entry, problems: &mut Vec<Problem>) {
        let known = settings();
        let value = &entry.value;
        match &value.content {
            Content::Map(_) if entry.key == "vars" => {
                if let Value::Object(vars) = value.to_json() {
                    self.vars = vars;
                }
            }
            _ if entry.key == "vars" => {
                let message = format!("`vars` is a map of names and values, not {}", value.kind());
                problems.push(Problem::new(ProblemCode::WrongType, value.span, message));
            }
            _ if !known.contains_key(&entry.key) => {
                let message = format!("there is no setting `{}`", entry.key);
                let names = known.keys().map(String::as_str).chain(["vars"]);
                problems.push(
                    Problem::new(ProblemCode::UnknownKey, entry.key_span, message).did_you_mean(&entry.key, names),
                );
            }
            Content::Scalar(Value::Null) => {}
            Content::Scalar(scalar) => {
                let text = scalar.as_str().map_or_else(|| scalar.to_string(), str::to_owned);
                if let Some(message) = refused(&entry.key, &text) {
                    problems.push(Problem::new(ProblemCode::InvalidValue, value.span, message));
                }
                self.settings.insert(entry.key.clone(), (text, entry.key_span.line));
            }
            _ => {
                problems.push(wrong_type(entry));
                if matches!(entry.key.as_str(), "secrets" | "token") {
                    scalars(value, &mut self.hidden);
                }
            }
        }
    }

    /// Makes what the file says the defaults of a command and all below it.
    fn set_defaults(&self, command: clap::Command) -> clap::Command {
        let set = |argument: Arg| match setting(&argument).and_then(|name| self.settings.get(name)) {
            Some((value, _)) => argument.default_value(value.clone()),
            None => argument,
        };
        command.mut_args(set).mut_subcommands(|below| self.set_defaults(below))
    }
}

fn wrong_type(entry: &Entry) -> Problem {
    let message = format!("`{}` is one value, not {}", entry.key, entry.value.kind());
    let problem = Problem::new(ProblemCode::WrongType, entry.value.span, message);
    if entry.key == "secrets" {
        return problem.hint(
            "secrets do not stand in the configuration: name a file of them here, \
             or set FLOWLINE_SECRET_<NAME> in the environment",
        );
    }
    problem
}

/// Every text in a part of a document.
fn scalars(node: &Node, found: &mut Vec<String>) {
    match &node.content {
        Content::Scalar(value) => found.push(value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        Content::List(items) => items.iter().for_each(|item| scalars(item, found)),
        Content::Map(entries) => entries.iter().for_each(|entry| scalars(&entry.value, found)),
    }
}

/// The name of an argument, if it is a setting.
fn setting(argument: &Arg) -> Option<&str> {
    argument.get_env().and_then(|_| argument.get_long())
}

/// Every setting and its environment variable.
fn settings() -> BTreeMap<String, String> {
    fn gather(command: &clap::Command, found: &mut BTreeMap<String, String>) {
        for argument in command.get_arguments() {
            if let (Some(name), Some(variable)) = (setting(argument), argument.get_env()) {
                found.insert(name.to_owned(), variable.to_string_lossy().into_owned());
            }
        }
        command.get_subcommands().for_each(|below| gather(below, found));
    }
    let mut found = BTreeMap::new();
    gather(&Cli::command(), &mut found);
    found
}

/// Why a setting cannot have this value: the command line's own judgement.
fn refused(name: &str, value: &str) -> Option<String> {
    let flag = format!("--{name}");
    let error = Cli::command().try_get_matches_from(["flowline", "config", &format!("{flag}={value}")]).err()?;
    let about_it = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(argument) => argument.starts_with(&flag),
        _ => false,
    };
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    let possible = || match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => format!("`{value}` is none of {}", values.join(", ")),
        _ => format!("`{value}` is not allowed"),
    };
    about_it.then(|| format!("`{name}`: {}", reason.unwrap_or_else(possible)))
}

/// Every setting with its value and where that came from.
fn effective(matches: &ArgMatches, file: &File) -> Vec<Effective> {
    let known = settings();
    let read = |(name, variable): (&String, &String)| {
        let id = name.replace('-', "_");
        let source = matches.value_source(&id);
        let value = matches.try_get_raw(&id).ok().flatten().and_then(|mut values| values.next());
        let value = value.map(|value| value.to_string_lossy().into_owned());
        let from = match (source, file.settings.get(name)) {
            (Some(ValueSource::CommandLine), _) => format!("flag --{name}"),
            (Some(ValueSource::EnvVariable), _) => format!("environment {variable}"),
            (Some(_), Some((_, line))) => format!("{}:{line}", file.path.display()),
            _ => "default".to_owned(),
        };
        let hidden = HIDDEN.contains(&name.as_str());
        Effective {
            name: name.clone(), value: value.map(|value| if hidden { "•••".into() } else { value }), from
        }
    };
    known.iter().map(read).collect()
}
