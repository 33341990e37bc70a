//! Secrets: read from the environment and from a file that nobody else can read. Their values go
//! to the engine and nowhere else.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use flowline_model::document::{self, Content};

use crate::failure::{Doing as _, Failure, Outcome};

/// How the environment names secrets.
const PREFIX: &str = "FLOWLINE_SECRET_";

/// Secrets by name, each with where it came from.
pub(crate) struct Found {
    /// The values.
    pub(crate) values: BTreeMap<String, String>,
    /// For people: where each came from.
    pub(crate) from: BTreeMap<String, String>,
}

/// Reads every secret; the environment counts before the file.
pub(crate) fn read(file: Option<&PathBuf>) -> Outcome<Found> {
    let mut found = Found { values: BTreeMap::new(), from: BTreeMap::new() };
    if let Some(path) = file {
        for (name, value) in read_file(path)? {
            found.from.insert(name.clone(), path.display().to_string());
            found.values.insert(name, value);
        }
    }
    for (variable, value) in env::vars_os() {
        let Some(name) = variable.to_str().and_then(|variable| variable.strip_prefix(PREFIX)) else { continue };
        let value = value
            .into_string()
            .map_err(|_| Failure::new(format!("the environment variable {PREFIX}{name} is not UTF-8")))?;
        for name in names(name) {
            found.from.insert(name.clone(), format!("environment {}", variable.to_string_lossy()));
            found.values.insert(name, value.clone());
        }
    }
    Ok(found)
}

/// The names under which a variable is known: `CMS_TOKEN` is both `cms_token` and `cms-token`.
fn names(variable: &str) -> Vec<String> {
    let lower = variable.to_ascii_lowercase();
    let dashed = lower.replace('_', "-");
    if lower == dashed { vec![lower] } else { vec![lower, dashed] }
}

/// The secrets of a file that nobody else can read.
pub(crate) fn read_file(path: &Path) -> Outcome<BTreeMap<String, String>> {
    let shown = path.display();
    let what = fs::metadata(path).doing(|| format!("the secrets file {shown} cannot be read"))?;
    refuse_if_readable_by_others(path, &what)?;
    let text = fs::read_to_string(path).doing(|| format!("the secrets file {shown} cannot be read"))?;
    let wrong = |line: usize, what: &str| {
        Failure::new(format!("the secrets file {shown} cannot be used: line {line}: {what}"))
            .hint("write one `name: value` on each line")
    };
    // Only the place and the kind of a problem are told: its message may quote the text.
    let node = document::read(&text).map_err(|problems| {
        let line = problems.first().map_or(1, |problem| problem.span.line);
        wrong(line, "it is not YAML")
    })?;
    if !matches!(node.content, Content::Map(_)) {
        return Err(wrong(1, "it is not a map of names and values"));
    }
    let mut secrets = BTreeMap::new();
    for entry in node.entries() {
        let Content::Scalar(value) = &entry.value.content else {
            return Err(wrong(entry.key_span.line, "the value is not a text"));
        };
        secrets.insert(entry.key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(secrets)
}

#[cfg(unix)]
fn refuse_if_readable_by_others(path: &Path, what: &fs::Metadata) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if what.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(Failure::new(format!("the secrets file {shown} can be read by others")).hint(format!("chmod 600 {shown}")))
}

#[cfg(not(unix))]
fn refuse_if_readable_by_others(_: &Path, _: &fs::Metadata) -> Outcome<()> {
    Ok(())
}
