//! Where the gateway listens: on one address at a time, on the ports it had before if they are
//! free, because links to stored objects that components put into their messages name them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tokio::{fs, net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

/// Where workers reach the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `host:port` of AMQP.
    pub amqp: String,
    /// `host:port` of HTTP.
    pub http: String,
}

impl Addresses {
    /// The base of the HTTP API, without a slash at its end.
    pub fn api(&self) -> String {
        format!("http://{}", self.http)
    }
}

/// The two listeners.
pub(crate) struct Listeners {
    pub(crate) amqp: TcpListener,
    pub(crate) http: TcpListener,
    /// Told when they are to close.
    pub(crate) stop: CancellationToken,
}

/// Where the gateway listens.
pub(crate) struct Listening {
    /// The file that holds the ports.
    file: PathBuf,
    addresses: RwLock<Arc<Addresses>>,
    current: Mutex<Option<(IpAddr, CancellationToken)>>,
}

impl Listening {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { file: folder.join("ports"), addresses: RwLock::default(), current: Mutex::default() }
    }

    /// Where workers reach it; empty before it listens anywhere.
    pub(crate) fn addresses(&self) -> Arc<Addresses> {
        Arc::clone(&self.addresses.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens both listeners on an address and closes those on another; none if they are there.
    pub(crate) async fn on(&self, address: IpAddr, stop: &CancellationToken) -> io::Result<Option<Listeners>> {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|(known, _)| *known == address) {
            return Ok(None);
        }
        let ports = self.ports().await;
        let (amqp, http) = (bind(address, ports[0]).await?, bind(address, ports[1]).await?);
        let (at_amqp, at_http) = (amqp.local_addr()?, http.local_addr()?);
        fs::write(&self.file, format!("{} {}\n", at_amqp.port(), at_http.port())).await?;
        let addresses = Addresses { amqp: at_amqp.to_string(), http: at_http.to_string() };
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(addresses);
        let stop = stop.child_token();
        if let Some((_, earlier)) = current.replace((address, stop.clone())) {
            earlier.cancel();
        }
        Ok(Some(Listeners { amqp, http, stop }))
    }

    /// The ports of the last time; 0 takes a free one.
    async fn ports(&self) -> [u16; 2] {
        let text = fs::read_to_string(&self.file).await.unwrap_or_default();
        let mut ports = text.split_whitespace().map(|port| port.parse().unwrap_or(0));
        [ports.next().unwrap_or(0), ports.next().unwrap_or(0)]
    }
}

async fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::new(address, port)).await {
        // Somebody else has it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => TcpListener::bind((address, 0)).await,
        bound => bound,
    }
}
