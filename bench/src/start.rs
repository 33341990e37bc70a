//! From start to the first webhook served: with an empty store, and with a million messages
//! that wait because their target is down; and the memory that those take.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    figure::Figure,
    form::{self, Form},
    process::{self, Installation, Process},
};

/// Measures both, and the size of the binary.
pub(crate) async fn figures(binary: &Path, waiting: u64) -> Result<Vec<Figure>> {
    let size = std::fs::metadata(binary)?.len() as f64 / 1e6;
    let mut figures = vec![Figure::new("size of the release binary", format!("{size:.2} MB"))];
    // A port that is bound and never listens refuses every connection.
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let flow = form::flow("story", &format!("http://{nobody}/contacts"));
    let installation = Installation::new(binary, [("story".to_owned(), flow)])?;
    let (empty, process) = first_webhook(&installation).await?;
    figures.push(Figure::at_most("start to first webhook, empty store", empty, 200.0, " ms"));

    let begin = Instant::now();
    fill(&process, waiting).await?;
    let filled = begin.elapsed().as_secs_f64();
    figures.push(Figure::new("filling it, messages per second accepted", format!("{:.0}", waiting as f64 / filled)));
    sleep(Duration::from_secs(5)).await;
    let name = format!("{waiting} messages waiting, resident memory");
    figures.push(Figure::at_most(name, process.memory()?, 200.0, " MB"));
    let peak = format!("{:.2} MB", process.peak_memory()?);
    figures.push(Figure::new("the same at its peak while they came", peak));
    process.end()?;

    let (full, process) = first_webhook(&installation).await?;
    figures.push(Figure::at_most(format!("start to first webhook, {waiting} waiting"), full, 1_000.0, " ms"));
    sleep(Duration::from_secs(5)).await;
    figures.push(Figure::at_most("resident memory after that start", process.memory()?, 200.0, " MB"));
    Ok(figures)
}

/// Starts the server and sends one form until it is accepted; the milliseconds that took.
async fn first_webhook(installation: &Installation) -> Result<(f64, Process)> {
    let begin = Instant::now();
    let process = installation.start()?;
    while !accepts(process.address).await {
        ensure!(begin.elapsed() < Duration::from_secs(120), "flowline does not accept a message");
        sleep(Duration::from_millis(1)).await;
    }
    Ok((begin.elapsed().as_secs_f64() * 1e3, process))
}

/// One request by hand: a client library would take longer to make than the server to start.
async fn accepts(address: SocketAddr) -> bool {
    let body = serde_json::to_string(&Form::numbered(0)).unwrap_or_default();
    let head = "POST /hook/story HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    answer.await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 202"))
}

async fn fill(process: &Process, messages: u64) -> Result<()> {
    let arguments = ["load", "--path=/hook/story", "--first=1"].map(str::to_owned).into_iter();
    let arguments = arguments.chain([format!("--address={}", process.address), format!("--messages={messages}")]);
    let _sent: serde_json::Value = process::run(arguments.collect()).await.context("filling the queue")?;
    Ok(())
}
