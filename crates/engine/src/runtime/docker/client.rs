//! The way to the Docker daemon: found once, again after it was away.

use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker as Api, errors::Error};
use tokio::sync::Mutex;

use crate::runtime::Trouble;

/// Where the daemon listens unless something else is said.
const SOCKET: &str = "unix:///var/run/docker.sock";
/// The oldest Engine API that will do.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };
/// How long one call may take, in seconds.
const TIMEOUT: u64 = 120;
/// How long the daemon may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);

/// The way to the Docker daemon.
pub(crate) struct Client {
    host: String,
    connected: Mutex<Option<Api>>,
}

impl Client {
    pub(crate) fn new(host: Option<&str>) -> Self {
        let named = host.map(str::to_owned).or_else(|| std::env::var("DOCKER_HOST").ok());
        let host = named.filter(|host| !host.is_empty()).unwrap_or_else(|| SOCKET.to_owned());
        Self { host, connected: Mutex::default() }
    }

    /// The daemon, in the version of the API that both speak.
    pub(crate) async fn api(&self) -> Result<Api, Trouble> {
        let mut connected = self.connected.lock().await;
        if let Some(api) = connected.as_ref() {
            return Ok(api.clone());
        }
        let api = self.connect().map_err(|error| self.trouble("connect", &error))?;
        let api = tokio::time::timeout(GREETING, api.negotiate_version());
        let api = api.await.map_err(|_| self.unreachable("it does not answer"))?;
        let api = api.map_err(|error| self.trouble("connect", &error))?;
        let version = api.client_version();
        if version < OLDEST {
            let text = format!("the Docker daemon at {} speaks API {version}, and {OLDEST} is needed", self.host);
            return Err(Trouble::unreachable(text));
        }
        *connected = Some(api.clone());
        Ok(api)
    }

    fn connect(&self) -> Result<Api, Error> {
        match self.host.strip_prefix("unix://") {
            Some(_) => Api::connect_with_unix(&self.host, TIMEOUT, API_DEFAULT_VERSION),
            None => Api::connect_with_http(&self.host, TIMEOUT, API_DEFAULT_VERSION),
        }
    }

    /// What went wrong. One that is not reached is greeted anew next time: it may be another.
    pub(crate) async fn failed(&self, what: &str, error: &Error) -> Trouble {
        let trouble = self.trouble(what, error);
        if trouble.is_unreachable {
            *self.connected.lock().await = None;
        }
        trouble
    }

    fn trouble(&self, what: &str, error: &Error) -> Trouble {
        match error {
            Error::DockerResponseServerError { message, .. } => Trouble::failed(format!("{what}: {}", message.trim())),
            Error::DockerStreamError { error } => Trouble::failed(format!("{what}: {}", error.trim())),
            other => self.unreachable(&format!("{what}: {other}")),
        }
    }

    fn unreachable(&self, why: &str) -> Trouble {
        Trouble::unreachable(format!("the Docker daemon at {} is out of reach: {why}", self.host))
    }
}

/// Whether Docker says that something is not there.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}
