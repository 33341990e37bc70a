//! `flowline queues`: what waits on every queue.

use std::process::ExitCode;

use flowline_queue::QueueDepth;

use super::print_json;
use crate::{
    cli::Queues,
    failure::Outcome,
    lookup::Lookup,
    table::{self, Column},
};

pub(super) async fn run(options: Queues) -> Outcome {
    let queues = Lookup::open(&options.source).await?.queues().await?;
    if options.source.json {
        return print_json(&queues);
    }
    if queues.is_empty() {
        anstream::println!("no queues");
        return Ok(ExitCode::SUCCESS);
    }
    let figures = ["READY", "LEASED", "DELAYED", "DEAD", "SIZE", "OLDEST"].map(Column::Right);
    let columns = [&[Column::Left("QUEUE")], figures.as_slice()].concat();
    table::print(&columns, queues.iter().map(row));
    Ok(ExitCode::SUCCESS)
}

fn row(depth: &QueueDepth) -> Vec<String> {
    let counts = [depth.ready, depth.leased, depth.delayed, depth.dead].map(|count| count.to_string());
    let oldest = depth.oldest.map_or_else(|| "-".to_owned(), |oldest| table::age(oldest, table::now()));
    [vec![depth.queue.to_string()], counts.to_vec(), vec![table::bytes(depth.bytes), oldest]].concat()
}
