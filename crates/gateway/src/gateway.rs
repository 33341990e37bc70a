//! The gateway as a whole: its listeners, and what all steps share.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use flowline_model::{QueueName, Timestamp};
use flowline_sdk::{GatewayStep, Host, RemoteStep};
use tokio::fs;
use tokio_util::sync::CancellationToken;

use crate::{
    amqp,
    gathered::Gauge,
    guests::Guests,
    http,
    kept::Kept,
    listening::{Addresses, Listeners, Listening},
    marks::Marks,
    objects::Objects,
    open::Open,
    seal::Seal,
    service_call::Results,
    settings::Settings,
    spool::Spools,
    step::Step,
};

/// How often objects are looked through for those whose time is over.
const SWEEP: Duration = Duration::from_secs(60);

/// What the gateway holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of emits in memory.
    pub gathered: u64,
    /// The most of them that there ever were.
    pub most_gathered: u64,
    /// Bytes in spools.
    pub spooled: u64,
}

/// What all steps share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) listening: Listening,
    pub(crate) guests: Guests,
    pub(crate) spools: Spools,
    pub(crate) marks: Marks,
    pub(crate) objects: Objects,
    pub(crate) kept: Kept,
    pub(crate) results: Results,
    pub(crate) seal: Seal,
    pub(crate) gauge: Gauge,
    pub(crate) budget: amqp::Budget,
    /// Spools that an earlier process left, by step.
    left: Mutex<HashMap<QueueName, HashSet<String>>>,
}

impl Shared {
    /// Where workers reach the gateway; empty before it listens anywhere.
    pub(crate) fn addresses(&self) -> Arc<Addresses> {
        self.listening.addresses()
    }

    /// The spools of a step that an earlier process left; told once.
    pub(crate) fn take_left_spools(&self, queue: &QueueName) -> HashSet<String> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(queue).unwrap_or_default()
    }
}

/// The step gateway.
pub struct Gateway {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: CancellationToken,
}

impl Gateway {
    /// Opens the folder; nobody is listened to yet. Ends when it is dropped.
    pub async fn open(settings: Settings) -> io::Result<Arc<Self>> {
        let shared = Arc::new(shared(settings).await?);
        let stop = CancellationToken::new();
        tokio::spawn(sweep(Arc::clone(&shared), stop.clone()));
        Ok(Arc::new(Self { shared, stop }))
    }

    /// Opens the folder and listens on an address.
    pub async fn bind(settings: Settings, address: IpAddr) -> io::Result<Arc<Self>> {
        let gateway = Self::open(settings).await?;
        flowline_sdk::Gateway::listen(&*gateway, address).await?;
        Ok(gateway)
    }

    /// Where workers reach it; empty before it listens anywhere.
    pub fn addresses(&self) -> Arc<Addresses> {
        self.shared.addresses()
    }

    /// Ends a worker's connections; its credentials stay good and it may come back.
    pub fn disconnect(&self, worker: &str) {
        if let Some(guest) = self.shared.guests.get(worker) {
            guest.interrupt();
        }
    }

    /// What it holds at the moment.
    pub fn figures(&self) -> Figures {
        let (gathered, most_gathered) = self.shared.gauge.read();
        Figures { gathered, most_gathered, spooled: self.shared.spools.used() }
    }
}

#[async_trait]
impl flowline_sdk::Gateway for Gateway {
    async fn listen(&self, address: IpAddr) -> io::Result<()> {
        if let Some(Listeners { amqp, http, stop }) = self.shared.listening.on(address, &self.stop).await? {
            tokio::spawn(amqp::server::serve(amqp, Arc::clone(&self.shared), stop.clone()));
            tokio::spawn(http::serve(http, Arc::clone(&self.shared), stop));
        }
        Ok(())
    }

    fn open(&self, step: RemoteStep, host: Arc<dyn Host>) -> Arc<dyn GatewayStep> {
        Arc::new(Open { step: Arc::new(Step::new(step, host, Arc::clone(&self.shared))) })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn shared(settings: Settings) -> io::Result<Shared> {
    let folder = settings.folder.clone();
    fs::create_dir_all(&folder).await?;
    let spools = Spools::open(folder.join("spool"), settings.limits.spool.0).await?;
    let left = Mutex::new(spools.left().await?);
    let objects = Objects::open(folder.join("objects"), settings.limits.clone()).await?;
    let kept = Kept::open(folder.join("kept")).await?;
    let unfinished = usize::try_from(settings.limits.unfinished.0).unwrap_or(usize::MAX);
    Ok(Shared {
        seal: Seal::new(key(&folder.join("links.key")).await?),
        listening: Listening::new(&folder),
        guests: Guests::default(),
        spools,
        marks: Marks::default(),
        objects,
        kept,
        results: Results::default(),
        gauge: Gauge::default(),
        budget: amqp::Budget::new(unfinished),
        left,
        settings,
    })
}

/// The key of links: made once, so that links outlive the process.
async fn key(path: &Path) -> io::Result<[u8; 32]> {
    if let Ok(bytes) = fs::read(path).await
        && let Ok(key) = bytes.try_into()
    {
        return Ok(key);
    }
    let key = rand::random::<[u8; 32]>();
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(path).await?;
    tokio::io::AsyncWriteExt::write_all(&mut file, &key).await?;
    file.sync_all().await?;
    Ok(key)
}

async fn sweep(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => shared.objects.sweep(now()).await,
        }
    }
}

/// The time by which objects live.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
