//! The mail server: connections are kept for each server, and trouble becomes a fault.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flowline_sdk::{Fault, Lapse};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    transport::smtp::{
        Error, PoolConfig,
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::runtime::Handle;

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
    /// How long the server may take for each answer.
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
/// Unused connections kept for each server, and for how long.
const KEPT_CONNECTIONS: u32 = 16;
const IDLE: Duration = Duration::from_secs(30);

/// Connections to mail servers.
#[derive(Default)]
pub(super) struct Mailers {
    kept: Mutex<HashMap<Server, Arc<Mailer>>>,
}

impl Mailers {
    /// Sends a mail.
    pub(super) async fn send(&self, server: &Server, letter: Message) -> Result<(), Fault> {
        let mailer = self.mailer(server)?;
        // A run that is given up must not leave a connection in the middle of a conversation to
        // the next one: the sending ends on its own, within the server's time limit.
        let sending = tokio::spawn(async move { mailer.send(letter).await });
        match sending.await {
            Ok(sent) => sent.map_err(|error| server.fault(&error)),
            Err(error) => Err(Fault::retry("smtp_broken_off", format!("the sending broke off: {error}"))),
        }
    }

    fn mailer(&self, server: &Server) -> Result<Arc<Mailer>, Fault> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mailer) = kept.get(server) {
            return Ok(mailer.clone());
        }
        if kept.len() >= KEPT_SERVERS {
            kept.clear();
        }
        let mailer = Arc::new(Mailer::new(server)?);
        kept.insert(server.clone(), mailer.clone());
        Ok(mailer)
    }
}

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// The connections to one server.
struct Mailer(Option<Transport>);

impl Mailer {
    fn new(server: &Server) -> Result<Self, Fault> {
        let security = server.tls()?;
        let mut builder = Transport::builder_dangerous(server.host.as_str())
            .port(server.port())
            .tls(security)
            .timeout(Some(server.timeout.0))
            .pool_config(PoolConfig::new().max_size(KEPT_CONNECTIONS).idle_timeout(IDLE));
        if let Some(user) = &server.user {
            let password = server.password.clone().unwrap_or_default();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(Self(Some(builder.build())))
    }

    async fn send(&self, letter: Message) -> Result<(), Error> {
        match &self.0 {
            Some(transport) => transport.send(letter).await.map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Mailer {
    /// Closing connections takes a runtime; without one the process is at its end, which closes
    /// them too.
    fn drop(&mut self) {
        if Handle::try_current().is_err() {
            std::mem::forget(self.0.take());
        }
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

    fn tls(&self) -> Result<Tls, Fault> {
        if self.security == Security::None {
            return if self.insecure || self.is_on_this_machine() {
                Ok(Tls::None)
            } else {
                let text = format!("`security: none` would send mail to {} readable for others", self.host);
                Err(Fault::misconfigured("smtp_insecure", format!("{text}; `insecure: true` allows it")))
            };
        }
        let parameters = TlsParameters::new(self.host.clone())
            .map_err(|error| Fault::misconfigured("smtp_tls", format!("TLS with {}: {error}", self.host)))?;
        Ok(if self.security == Security::Tls { Tls::Wrapper(parameters) } else { Tls::Required(parameters) })
    }

    fn is_on_this_machine(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        self.host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    }

    fn fault(&self, error: &Error) -> Fault {
        let place = format!("{}:{}", self.host, self.port());
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
