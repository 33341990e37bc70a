//! The load generator: sends forms over keep-alive connections, as fast as answers come or at a
//! steady rate, and reports when it sent what. A process of its own, and a cheap one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, client::conn::http1::SendRequest, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet, time::sleep};

use crate::{clock, form::Form};

/// What to send, and where.
#[derive(Args, Clone)]
pub(crate) struct Load {
    /// The server.
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// The path; `{}` in it is replaced by the message's number modulo `--paths`.
    #[arg(long)]
    pub(crate) path: String,
    /// How many paths there are.
    #[arg(long, default_value_t = 1)]
    pub(crate) paths: u64,
    /// The number of the first form.
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u64,
    /// How many forms.
    #[arg(long)]
    pub(crate) messages: u64,
    /// Over how many connections.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: u64,
    /// How many per second; as fast as answers come if not given.
    #[arg(long)]
    pub(crate) rate: Option<u64>,
}

/// What was sent.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// When the first request left, in microseconds.
    pub(crate) begin: u64,
    /// When the last answer came.
    pub(crate) end: u64,
    /// How often a request was repeated because the server asked for patience.
    pub(crate) repeated: u64,
    /// When each form was sent, from the first; only when sent at a rate.
    pub(crate) times: Vec<u64>,
}

/// Sends everything; returns when every form is accepted.
pub(crate) async fn run(load: Load) -> Result<Sent> {
    let load = Arc::new(load);
    let begin = clock::micros();
    let mut sent = match load.rate {
        None => as_fast_as_answers_come(&load).await?,
        Some(rate) => at_a_rate(&load, rate).await?,
    };
    sent.begin = begin;
    sent.end = clock::micros();
    Ok(sent)
}

async fn as_fast_as_answers_come(load: &Arc<Load>) -> Result<Sent> {
    let next = Arc::new(AtomicU64::new(load.first));
    let mut connections = JoinSet::new();
    for _ in 0..load.connections {
        let (load, next) = (Arc::clone(load), Arc::clone(&next));
        connections.spawn(async move {
            let mut connection = Connection::open(&load).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= load.first + load.messages {
                    return anyhow::Ok(connection.repeated);
                }
                connection.send(&load, number).await?;
            }
        });
    }
    let mut sent = Sent::default();
    while let Some(repeated) = connections.join_next().await {
        sent.repeated += repeated??;
    }
    Ok(sent)
}

/// Sends without waiting for answers: a slow server does not slow the senders down.
async fn at_a_rate(load: &Arc<Load>, rate: u64) -> Result<Sent> {
    let mut lanes = Vec::new();
    let mut connections = JoinSet::new();
    for _ in 0..load.connections {
        let (lane, mut numbers) = mpsc::unbounded_channel();
        lanes.push(lane);
        let load = Arc::clone(load);
        connections.spawn(async move {
            let mut connection = Connection::open(&load).await?;
            while let Some(number) = numbers.recv().await {
                connection.send(&load, number).await?;
            }
            anyhow::Ok(connection.repeated)
        });
    }
    let mut sent = Sent::default();
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
    for (number, lane) in (load.first..load.first + load.messages).zip(lanes.iter().cycle()) {
        ticks.tick().await;
        sent.times.push(clock::micros());
        lane.send(number).context("a connection ended early")?;
    }
    drop(lanes);
    while let Some(repeated) = connections.join_next().await {
        sent.repeated += repeated??;
    }
    Ok(sent)
}

/// One keep-alive connection.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    repeated: u64,
}

impl Connection {
    async fn open(load: &Load) -> Result<Self> {
        let stream = TcpStream::connect(load.address).await.context("the server does not listen")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, repeated: 0 })
    }

    /// Sends one form until it is accepted.
    async fn send(&mut self, load: &Load, number: u64) -> Result<()> {
        let body = Bytes::from(serde_json::to_vec(&Form::numbered(number))?);
        let path = load.path.replace("{}", &(number % load.paths).to_string());
        loop {
            let request = Request::post(&path)
                .header("host", "127.0.0.1")
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))?;
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            let status = answer.status();
            let said = answer.into_body().collect().await?.to_bytes();
            if status.is_success() {
                return Ok(());
            }
            let patience = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
            ensure!(patience, "{path} answered {status}: {}", String::from_utf8_lossy(&said));
            self.repeated += 1;
            sleep(Duration::from_millis(20)).await;
        }
    }
}
