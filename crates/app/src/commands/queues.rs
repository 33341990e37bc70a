//! `flowline queues`: what waits on every queue.

use std::process::ExitCode;

use flowline_engine::WorkersStatus;
use flowline_queue::QueueDepth;

use super::print_json;
use crate::{
    cli::Queues,
    failure::Outcome,
    lookup::Lookup,
    table::{self, Column},
};

pub(super) async fn run(options: Queues) -> Outcome {
    let lookup = Lookup::open(&options.source).await?;
    let queues = lookup.queues().await?;
    if options.source.json {
        return print_json(&queues);
    }
    if queues.is_empty() {
        anstream::println!("no queues");
        return Ok(ExitCode::SUCCESS);
    }
    let figures = ["READY", "LEASED", "DELAYED", "DEAD", "SIZE", "OLDEST"].map(Column::Right);
    let columns = [&[Column::Left("QUEUE")], figures.as_slice()].concat();
    let workers = lookup.workers().await?;
    if workers.is_empty() {
        table::print(&columns, queues.iter().map(row));
    } else {
        let columns = [columns, vec![Column::Right("WORKERS")]].concat();
        let rows = queues.iter().map(|depth| [row(depth), vec![number(workers.get(&depth.queue))]].concat());
        table::print(&columns, rows);
    }
    Ok(ExitCode::SUCCESS)
}

/// How many workers there are, of how many there should be; of those in the server's process
/// nothing needs to be told.
fn number(workers: Option<&WorkersStatus>) -> String {
    workers.map_or_else(|| "-".to_owned(), |workers| format!("{}/{}", workers.running, workers.wanted))
}

fn row(depth: &QueueDepth) -> Vec<String> {
    let counts = [depth.ready, depth.leased, depth.delayed, depth.dead].map(|count| count.to_string());
    let oldest = depth.oldest.map_or_else(|| "-".to_owned(), |oldest| table::age(oldest, table::now()));
    [vec![depth.queue.to_string()], counts.to_vec(), vec![table::bytes(depth.bytes), oldest]].concat()
}
