//! `flowline components`: what steps can use, the reference of each, and how more come in.

mod add;
mod ask;

use std::{path::Path, process::ExitCode};

use flowline_model::{OperationSpec, problem::nearest};

use super::{print_json, wait_for};
use crate::{
    cli::{Components, ComponentsCommand, ComponentsList},
    failure::{Doing as _, Failure, Outcome},
    reference::{self, Component, Field},
    registry::{self, Registry},
    table::{self, Column},
};

pub(super) fn run(components: Components) -> Outcome {
    match components.command {
        None => show_list(&components.list),
        Some(ComponentsCommand::List(list)) => show_list(&list),
        Some(ComponentsCommand::Add(add)) => wait_for(add::run(add)),
        Some(ComponentsCommand::Remove(remove)) => add::remove(&remove),
        Some(ComponentsCommand::Verify(verify)) => wait_for(ask::verify(verify)),
        Some(ComponentsCommand::Model(model)) => wait_for(ask::model(model)),
    }
}

fn show_list(options: &ComponentsList) -> Outcome {
    if let Some(folder) = &options.markdown {
        // Reference pages are of what is built in.
        return write_pages(folder, &reference::components(&Registry::default()));
    }
    let all = reference::components(&registry::read(&options.data.data)?);
    let Some(name) = &options.name else {
        return if options.json { print_json(&all) } else { Ok(list(&all)) };
    };
    if let Some(component) = all.iter().find(|component| component.name == *name) {
        return if options.json { print_json(component) } else { Ok(show_component(component)) };
    }
    let mut operations = all.iter().flat_map(|component| &component.operations);
    match operations.find(|operation| operation.name == *name) {
        Some(operation) if options.json => print_json(operation),
        Some(operation) => Ok(show(operation)),
        None => Err(unknown(name, &all)),
    }
}

fn unknown(name: &str, all: &[Component]) -> Failure {
    let operations = all.iter().flat_map(|component| &component.operations).map(|operation| operation.name.as_str());
    let known: Vec<&str> = all.iter().map(|component| component.name.as_str()).chain(operations).collect();
    let failure = Failure::usage(format!("there is no component or operation `{name}`"));
    match nearest(name, &known) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint("`flowline components` lists them"),
    }
}

fn list(all: &[Component]) -> ExitCode {
    let columns = ["OPERATION", "KIND", "WHAT IT DOES"].map(Column::Left);
    let operations = all.iter().flat_map(|component| &component.operations);
    table::print(&columns, operations.map(row));
    anstream::println!("\n`flowline components NAME` shows the reference of one");
    ExitCode::SUCCESS
}

fn row(operation: impl AsRef<OperationSpec>) -> Vec<String> {
    let operation = operation.as_ref();
    vec![operation.name.clone(), reference::kind(operation.kind).to_owned(), operation.summary.clone()]
}

fn show_component(component: &Component) -> ExitCode {
    anstream::println!("{}: {}", component.name, component.summary);
    for operation in &component.operations {
        anstream::println!();
        show(operation);
    }
    ExitCode::SUCCESS
}

fn show(operation: &OperationSpec) -> ExitCode {
    let OperationSpec { name, title, summary, description, .. } = operation;
    anstream::println!("\x1b[1m{name}\x1b[0m: {title} ({})\n\n{summary}", reference::kind(operation.kind));
    if operation.writes_outside {
        anstream::println!("It changes something outside Flowline.");
    }
    if !description.is_empty() {
        anstream::println!("\n{}", description.trim());
    }
    anstream::println!("\n{}", reference::outputs(&operation.outputs));
    let fields = reference::fields(operation);
    if !fields.is_empty() {
        anstream::println!("\n\x1b[1mConfiguration\x1b[0m (`with`; every text may hold `{{{{ … }}}}` expressions)\n");
    }
    fields.iter().for_each(show_field);
    for example in &operation.examples {
        anstream::println!("\n\x1b[1mExample\x1b[0m\n");
        reference::step(operation, example).lines().for_each(|line| anstream::println!("  {line}"));
    }
    ExitCode::SUCCESS
}

fn show_field(field: &Field) {
    let Field { path, kind, required, default, description } = field;
    let note = match default {
        _ if *required => ", required".to_owned(),
        Some(default) => format!(", default {default}"),
        None => String::new(),
    };
    anstream::println!("  \x1b[36m{path}\x1b[0m  {kind}{note}");
    description.lines().for_each(|line| anstream::println!("      {line}"));
}

fn write_pages(folder: &Path, all: &[Component]) -> Outcome {
    let cannot = || format!("the reference pages cannot be written to {}", folder.display());
    std::fs::create_dir_all(folder).doing(cannot)?;
    std::fs::write(folder.join("README.md"), reference::index(all)).doing(cannot)?;
    for component in all {
        let file = folder.join(format!("{}.md", component.name));
        std::fs::write(file, reference::page(component)).doing(cannot)?;
    }
    Ok(ExitCode::SUCCESS)
}
