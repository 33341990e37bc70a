//! Resident memory and idle CPU: with one idle flow and with a thousand active ones.

use std::{path::Path, time::Duration};

use anyhow::Result;
use tokio::time::sleep;

use crate::{
    figure::Figure,
    form,
    process::{self, Installation, Process},
    sink::Report,
};

/// Active flows.
const FLOWS: u64 = 1_000;
/// Messages for each of them.
const EACH: u64 = 5;
/// How long an idle process is watched.
const IDLE: Duration = Duration::from_secs(10);

/// Measures both.
pub(crate) async fn figures(binary: &Path) -> Result<Vec<Figure>> {
    let mut figures = one_idle_flow(binary).await?;
    figures.extend(many_active_flows(binary).await?);
    Ok(figures)
}

async fn one_idle_flow(binary: &Path) -> Result<Vec<Figure>> {
    let flow = form::flow("story", "http://127.0.0.1:9/");
    let installation = Installation::new(binary, [("story".to_owned(), flow)])?;
    let process = installation.up().await?;
    sleep(Duration::from_secs(2)).await;
    let before = process.cpu()?;
    sleep(IDLE).await;
    let cpu = (process.cpu()? - before) / IDLE.as_secs_f64() * 100.0;
    Ok(vec![
        Figure::at_most("one idle flow, resident memory", process.memory()?, 40.0, " MB"),
        Figure::at_most("one idle flow, CPU", cpu, 1.0, " %"),
    ])
}

async fn many_active_flows(binary: &Path) -> Result<Vec<Figure>> {
    let sink = Process::of_this(&["sink"])?;
    let url = format!("http://{}/contacts", sink.address);
    let names = (0..FLOWS).map(|number| format!("flow-{number}"));
    let installation = Installation::new(binary, names.map(|name| (name.clone(), form::flow(&name, &url))))?;
    let process = installation.up().await?;
    let load = ["load", "--path=/hook/flow-{}"].map(str::to_owned).into_iter().chain([
        format!("--paths={FLOWS}"),
        format!("--address={}", process.address),
        format!("--messages={}", FLOWS * EACH),
    ]);
    let _sent: serde_json::Value = process::run(load.collect()).await?;
    while sink.ask::<Report>("/report").await?.distinct < FLOWS * EACH {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let before = process.cpu()?;
    sleep(IDLE).await;
    let cpu = (process.cpu()? - before) / IDLE.as_secs_f64() * 100.0;
    Ok(vec![
        Figure::at_most("1,000 active flows, resident memory", process.memory()?, 120.0, " MB"),
        Figure::new("1,000 active flows, resident memory at its peak", format!("{:.2} MB", process.peak_memory()?)),
        Figure::new("1,000 flows that have become idle, CPU", format!("{cpu:.2} %")),
    ])
}
