//! The mail server: connections are kept for each server, and trouble becomes a fault.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use flowline_sdk::{Fault, Lapse};
use lettre::{
    Message,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, TlsParameters},
        extension::ClientId,
    },
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::timeout;

use crate::http::tls;

/// A mail server.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    /// Its name or address.
    host: String,
    /// Its port: 587 with `starttls`, 465 with `tls` and 25 with `none` unless said.
    #[serde(default)]
    port: Option<u16>,
    /// How the connection is encrypted.
    #[serde(default)]
    security: Security,
    /// Allows `security: none` for servers on other machines: passwords and mails are readable on
    /// the way.
    #[serde(default)]
    insecure: bool,
    /// The user's name, if the server asks for one.
    #[serde(default)]
    user: Option<String>,
    /// The password.
    #[serde(default)]
    password: Option<String>,
    /// How long the sending of one mail may take.
    #[serde(default = "half_a_minute")]
    timeout: Lapse,
}

/// How the connection is encrypted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Security {
    /// From the beginning.
    Tls,
    /// After asking for it; never without.
    #[default]
    Starttls,
    /// Not at all: for servers on the same machine.
    None,
}

fn half_a_minute() -> Lapse {
    Lapse::seconds(30)
}

/// Servers whose connections are kept.
const KEPT_SERVERS: usize = 64;
/// Unused connections kept for each server.
const KEPT_CONNECTIONS: usize = 16;
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Connections to mail servers that wait for the next mail.
///
/// The library's own pool is no choice here: it puts a connection back that a run was given up
/// on in the middle of a conversation, and waits for ever for a server that says nothing.
#[derive(Default)]
pub(super) struct Mailers {
    kept: Mutex<HashMap<Server, Vec<Kept>>>,
}

struct Kept {
    connection: AsyncSmtpConnection,
    since: Instant,
}

impl Mailers {
    /// Sends a mail.
    pub(super) async fn send(&self, server: &Server, letter: &Message) -> Result<(), Fault> {
        match timeout(server.timeout.0, self.try_send(server, letter)).await {
            Ok(sent) => sent,
            Err(_) => Err(Fault::outage("smtp_timeout", format!("{}: not done in time", server.place()))),
        }
    }

    async fn try_send(&self, server: &Server, letter: &Message) -> Result<(), Fault> {
        let mut connection = match self.waiting(server).await {
            Some(connection) => connection,
            None => server.connect().await?,
        };
        connection.send(letter.envelope(), &letter.formatted()).await.map_err(|error| server.fault(&error))?;
        // Only a connection whose conversation came to its end is used again.
        self.keep(server, connection);
        Ok(())
    }

    /// A connection that still answers.
    async fn waiting(&self, server: &Server) -> Option<AsyncSmtpConnection> {
        loop {
            let kept = self.lock().get_mut(server)?.pop()?;
            let mut connection = kept.connection;
            if kept.since.elapsed() < IDLE && connection.test_connected().await {
                return Some(connection);
            }
        }
    }

    fn keep(&self, server: &Server, connection: AsyncSmtpConnection) {
        let mut servers = self.lock();
        if servers.len() >= KEPT_SERVERS && !servers.contains_key(server) {
            servers.clear();
        }
        let kept = servers.entry(server.clone()).or_default();
        kept.retain(|kept| kept.since.elapsed() < IDLE);
        if kept.len() < KEPT_CONNECTIONS {
            kept.push(Kept { connection, since: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Server, Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    fn port(&self) -> u16 {
        self.port.unwrap_or(match self.security {
            Security::Starttls => 587,
            Security::Tls => 465,
            Security::None => 25,
        })
    }

    fn place(&self) -> String {
        format!("{}:{}", self.host, self.port())
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Fault> {
        self.check()?;
        let name = ClientId::default();
        let at_once = if self.security == Security::Tls { Some(self.tls()?) } else { None };
        let address = (self.host.as_str(), self.port());
        let mut connection = AsyncSmtpConnection::connect_tokio1(address, None, &name, at_once, None)
            .await
            .map_err(|error| self.fault(&error))?;
        if self.security == Security::Starttls {
            connection.starttls(self.tls()?, &name).await.map_err(|error| self.fault(&error))?;
        }
        if let Some(user) = &self.user {
            let credentials = Credentials::new(user.clone(), self.password.clone().unwrap_or_default());
            connection
                .auth(&[Mechanism::Plain, Mechanism::Login], &credentials)
                .await
                .map_err(|error| self.fault(&error))?;
        }
        Ok(connection)
    }

    /// Refuses what would be readable on the way, unless that is asked for.
    fn check(&self) -> Result<(), Fault> {
        if self.security != Security::None || self.insecure || self.is_on_this_machine() {
            return Ok(());
        }
        let text = format!("`security: none` would send mail to {} readable for others", self.host);
        Err(Fault::misconfigured("smtp_insecure", format!("{text}; `insecure: true` allows it")))
    }

    fn tls(&self) -> Result<TlsParameters, Fault> {
        TlsParameters::new(self.host.clone())
            .map_err(|error| Fault::misconfigured("smtp_tls", format!("TLS with {}: {error}", self.host)))
    }

    fn is_on_this_machine(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        self.host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }

    fn fault(&self, error: &Error) -> Fault {
        let place = self.place();
        if let Some(fault) = tls::fault(error, &place) {
            return fault;
        }
        let text = format!("{place}: {error}");
        let Some(status) = error.status().map(u16::from) else {
            return if error.is_client() {
                Fault::misconfigured("smtp_unsuitable", text)
            } else if error.is_timeout() {
                Fault::outage("smtp_timeout", text)
            } else {
                Fault::outage("smtp_connect", text)
            };
        };
        let code = format!("smtp_{status}");
        match status {
            421 | 454 => Fault::outage(code, text),
            400..=499 => Fault::retry(code, text),
            530 | 534 | 535 | 538 => Fault::unauthorized(code, text),
            _ => Fault::reject(code, text),
        }
    }
}
