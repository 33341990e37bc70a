//! `flowline check`: every problem of every flow document.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, sync::Arc};

use flowline_model::{OperationSpec, Problem};
use serde::Serialize;

use super::print_json;
use crate::{
    cli::Check,
    failure::{Failure, Outcome},
    files, registry,
    render::{self, count},
};

/// A document and what is wrong with it.
#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    /// The flow it is, if nothing is wrong.
    flow: Option<String>,
    problems: Vec<Problem>,
    #[serde(skip)]
    text: String,
}

pub(super) fn run(options: &Check) -> Outcome {
    let paths = files::find(&options.flows)?;
    if paths.is_empty() {
        return Err(Failure::new("there are no flow documents there").hint("their names end in .yaml, .yml or .json"));
    }
    let specs = registry::read(&options.data.data)?.catalog();
    let operations = specs.specs().map(|spec| (spec.name.clone(), Arc::clone(spec))).collect();
    let mut checked: Vec<Checked> = Vec::new();
    for path in paths {
        checked.push(check(path, &operations)?);
    }
    note_doubles(&mut checked);
    let fine = checked.iter().all(|document| document.problems.is_empty());
    if options.json {
        print_json(&checked)?;
    } else {
        print(&checked);
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(file: PathBuf, operations: &BTreeMap<String, Arc<OperationSpec>>) -> Outcome<Checked> {
    let text = files::text(&file)?;
    let (flow, problems) = match flowline_model::check(&text, operations) {
        Ok(plan) => (Some(plan.flow.to_string()), Vec::new()),
        Err(problems) => (None, problems),
    };
    Ok(Checked { file, flow, problems, text })
}

/// A flow may stand in one file only.
fn note_doubles(checked: &mut [Checked]) {
    let mut first: BTreeMap<String, PathBuf> = BTreeMap::new();
    for document in checked {
        let Some(flow) = &document.flow else { continue };
        if let Some(other) = first.get(flow) {
            let name = flowline_model::document::read(&document.text).ok();
            let span = name.as_ref().and_then(|node| node.get("name")).map(|entry| entry.value.span);
            let message = format!("the flow `{flow}` stands in {} already", other.display());
            let code = flowline_model::ProblemCode::InvalidValue;
            let problem = Problem::new(code, span.unwrap_or_default(), message).hint("give it another name");
            document.problems.push(problem);
        } else {
            first.insert(flow.clone(), document.file.clone());
        }
    }
}

fn print(checked: &[Checked]) {
    for document in checked {
        render::print(&document.file, &document.text, &document.problems);
    }
    let problems: usize = checked.iter().map(|document| document.problems.len()).sum();
    let broken = checked.iter().filter(|document| !document.problems.is_empty()).count();
    let files = count(checked.len(), "file");
    if problems == 0 {
        anstream::println!("{files} checked, no problems");
    } else {
        anstream::eprintln!("{} in {broken} of {files}", count(problems, "problem"));
    }
}
