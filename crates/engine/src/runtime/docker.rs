//! The `docker` runtime: every step in containers of its own, through the Docker Engine API.
//!
//! Containers reach the step gateway over a network of their own, and nothing of this server
//! besides it. Who runs and how many is decided by the crew; here it is only done.

mod client;
mod containers;
mod exit;
mod logs;
mod network;
mod place;
mod server;
mod spec;
mod sweep;

pub use network::ContainerNetwork;
pub(crate) use place::DockerPlace;
pub(crate) use server::server_id;
pub(crate) use spec::Recipe;
pub(crate) use sweep::{last as last_sweep, run as sweep};

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use client::Client;
use tokio::sync::{Notify, Semaphore};

/// Docker, as one server uses it.
pub(crate) struct Docker {
    client: Client,
    /// The id of the server: on the label of every container.
    pub(crate) server: String,
    /// The containers that are meant to be there, from before they are made.
    known: Mutex<BTreeSet<String>>,
    /// Held while a network is looked for and made.
    networks: tokio::sync::Mutex<()>,
    /// So many containers are started at the same time: a hundred at once take longer.
    starts: Semaphore,
    /// Told when a container could not be removed.
    litter: Notify,
}

/// The most containers that are started at the same time.
const STARTS: usize = 4;

impl Docker {
    /// Reaches nobody yet: the daemon may come later, and go and come back.
    pub(crate) fn new(host: Option<&str>, server: String) -> Self {
        Self {
            client: Client::new(host),
            server,
            known: Mutex::default(),
            networks: Default::default(),
            starts: Semaphore::new(STARTS),
            litter: Notify::new(),
        }
    }

    fn known<T>(&self, look: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
