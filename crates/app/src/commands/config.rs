//! `flowline config`: every setting, its value, and where that came from.

use serde::Serialize;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use super::print_json;
use crate::{
    cli::Config,
    config::Effective,
    failure::Outcome,
    secrets,
    table::{self, Column},
};

#[derive(Serialize)]
struct Everything<'a> {
    settings: &'a [Effective],
    vars: &'a Map<String, Value>,
    /// The names of the secrets and where each came from; never a value.
    secrets: &'a BTreeMap<String, String>,
}

pub(super) fn run(options: &Config, vars: &Map<String, Value>) -> Outcome {
    let file: Option<&PathBuf> = options.engine.secrets.as_ref();
    let secrets = secrets::read(file)?.from;
    if options.json {
        return print_json(&Everything { settings: &options.effective, vars, secrets: &secrets });
    }
    let settings = options.effective.iter().map(|setting| {
        let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
        vec![setting.name.clone(), value, setting.from.clone()]
    });
    let vars = vars.iter().map(|(name, value)| {
        vec![format!("vars.{name}"), table::cut(&value.to_string(), 60), "configuration file".to_owned()]
    });
    let secrets = secrets.iter().map(|(name, from)| vec![format!("secrets.{name}"), "•••".to_owned(), from.clone()]);
    let columns = [Column::Left("SETTING"), Column::Left("VALUE"), Column::Left("FROM")];
    table::print(&columns, settings.chain(vars).chain(secrets));
    Ok(ExitCode::SUCCESS)
}
