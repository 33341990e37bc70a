//! `flowline doctor`: whether the files of the queues are whole, and their repair.

use std::process::ExitCode;

use flowline_queue::{
    QueueError,
    embedded::{DoctorReport, QueueReport, RepairReport, doctor},
};

use super::print_json;
use crate::{
    cli::Doctor,
    failure::{Failure, Outcome},
    render::count,
    table::{self, Column},
};

/// The folder of the queues within the data folder.
const QUEUES: &str = "queue";

pub(super) fn run(options: &Doctor) -> Outcome {
    let data = &options.data.data;
    let report = doctor(&data.join(QUEUES), options.repair).map_err(|error| match error {
        QueueError::NotFound(_) => {
            Failure::new(format!("there is no data folder {}", data.display())).hint("name it with `--data DIR`")
        }
        QueueError::InUse(_) => Failure::new(error.to_string()).hint("stop the server first"),
        error => Failure::new(error.to_string()),
    })?;
    if options.json {
        print_json(&report)?;
    } else {
        print(&report);
    }
    let fine = report.is_healthy() || report.repair.is_some();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &DoctorReport) {
    for problem in &report.problems {
        anstream::println!("\x1b[1;31mproblem\x1b[0m: {problem}");
    }
    if !report.queues.is_empty() {
        let figures = ["WAITING", "DEAD", "SIZE"].map(Column::Right);
        table::print(&[&[Column::Left("QUEUE")], figures.as_slice()].concat(), report.queues.iter().map(row));
        anstream::println!();
    }
    match &report.repair {
        Some(repair) => print_repair(repair),
        None if report.is_healthy() => anstream::println!("the store is whole"),
        None => {
            anstream::println!("{}; nothing was changed", count(report.problems.len(), "problem"));
            anstream::println!("`flowline doctor --repair` keeps the files aside and saves what can be read");
        }
    }
}

fn row(report: &QueueReport) -> Vec<String> {
    vec![report.queue.to_string(), report.waiting.to_string(), report.dead.to_string(), table::bytes(report.bytes)]
}

fn print_repair(repair: &RepairReport) {
    anstream::println!("repaired; the files as they were are kept in {}", repair.kept_aside.display());
    let figures = [
        ("pages of the log set right", repair.pages_corrected),
        ("pages of the log lost", repair.pages_lost),
        ("places of the store unreadable", repair.places_unreadable),
        ("messages put back that may run twice", repair.messages_put_back),
        ("messages known to be lost", repair.messages_lost),
    ];
    figures.iter().for_each(|(what, number)| anstream::println!("  {what:<37}  {number}"));
}
