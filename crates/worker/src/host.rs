//! What operations may ask of their host, answered by Flowline over HTTP. Expressions are
//! evaluated here.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use flowline_model::{
    Expression, Fault, QueueName, Timestamp,
    expression::{ExpressionError, Limits, Scope},
};
use flowline_sdk::{Attachments, Host, Place};
use reqwest::{Client, StatusCode, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use url::Url;

use crate::{
    lines::{self, About, Lines},
    objects::{ObjectStore, RemoteObjects},
    remembered::Remembered,
    settings::Settings,
};

/// How long a connection may take to come about, and an answer to be complete.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// How often a question is asked before it is a fault, and the first wait between.
const TRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// An HTTP client, made when it is first used: many operations never need one.
#[derive(Default)]
pub(crate) struct Http(OnceLock<Client>);

impl Http {
    /// The client.
    pub(crate) fn client(&self) -> Result<&Client, reqwest::Error> {
        if let Some(client) = self.0.get() {
            return Ok(client);
        }
        // An error means that there is one already, which is all that is needed.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::builder().connect_timeout(CONNECT).redirect(Policy::none()).no_proxy().pool_max_idle_per_host(4);
        let client = client.build()?;
        Ok(self.0.get_or_init(|| client))
    }
}

/// The HTTP side of the gateway, as all deliveries share it.
pub(crate) struct Platform {
    http: Arc<Http>,
    /// Where what the step remembers is asked for.
    state: String,
    user: String,
    key: String,
    pub(crate) objects: Arc<ObjectStore>,
    lines: Lines,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    value: Value,
}

#[derive(Deserialize)]
struct Entries {
    entries: Vec<(String, Value)>,
}

impl Platform {
    pub(crate) fn new(settings: &Settings, lines: Lines) -> Self {
        let http = Arc::new(Http::default());
        let api = &settings.api;
        Self {
            objects: Arc::new(ObjectStore::new(Arc::clone(&http), settings.objects.as_ref())),
            http,
            state: format!("{}/v1/tasks/{}/steps/{}/state", api.url, settings.flow, settings.step),
            user: api.user.clone(),
            key: api.key.clone(),
            lines,
        }
    }

    /// Asks for what the step remembers; none if there is nothing.
    async fn ask<T: DeserializeOwned>(&self, query: &[(&str, &str)]) -> Result<Option<T>, Fault> {
        let mut wait = FIRST_WAIT;
        let mut tried = 1;
        loop {
            match self.try_to_ask(query).await {
                Err(trouble) if tried >= TRIES => return Err(Fault::retry("state_unavailable", trouble)),
                Err(_) => tokio::time::sleep(wait).await,
                Ok(answer) => return Ok(answer),
            }
            tried += 1;
            wait *= 4;
        }
    }

    async fn try_to_ask<T: DeserializeOwned>(&self, query: &[(&str, &str)]) -> Result<Option<T>, String> {
        let unavailable = |error: reqwest::Error| format!("what the step remembers: {}", error.without_url());
        let url = Url::parse_with_params(&self.state, query).map_err(|error| error.to_string())?;
        let request = self.http.client().map_err(unavailable)?.get(url).timeout(ANSWER);
        let response = request.basic_auth(&self.user, Some(&self.key)).send().await.map_err(unavailable)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        response.error_for_status().map_err(unavailable)?.json().await.map(Some).map_err(unavailable)
    }
}

/// The host of one delivery.
pub(crate) struct StepHost {
    pub(crate) platform: Arc<Platform>,
    pub(crate) remembered: Remembered,
    pub(crate) files: RemoteObjects,
    pub(crate) thread: Option<String>,
    pub(crate) message: String,
}

#[async_trait]
impl Host for StepHost {
    fn now(&self) -> Timestamp {
        lines::now()
    }

    async fn state(&self, _: &QueueName, key: &str) -> Result<Option<Value>, Fault> {
        if let Some(changed) = self.remembered.get(key) {
            return Ok(changed);
        }
        let found: Option<Entry> = self.platform.ask(&[("key", key)]).await?;
        Ok(found.map(|entry| entry.value).filter(|value| !value.is_null()))
    }

    async fn states(
        &self,
        _: &QueueName,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<(String, Value)>, Fault> {
        let asked = max.saturating_add(self.remembered.len()).to_string();
        let found: Option<Entries> =
            self.platform.ask(&[("prefix", prefix), ("after", after), ("max", &asked)]).await?;
        let entries = found.map(|found| found.entries).unwrap_or_default();
        Ok(self.remembered.over(entries, prefix, after, max))
    }

    async fn evaluate(&self, expression: &Expression, input: Value) -> Result<Option<Value>, Fault> {
        let rejected = |error: ExpressionError| Fault::reject("expression", error.to_string());
        let brief = expression.evaluate(&Scope::new(&input), Limits::BRIEF);
        match brief {
            Err(ExpressionError::Timeout(_)) => {
                let expression = expression.clone();
                let slowly = move || expression.evaluate(&Scope::new(&input), Limits::FULL);
                let evaluated = tokio::task::spawn_blocking(slowly).await;
                evaluated.map_err(|error| Fault::retry("expression", error.to_string()))?.map_err(rejected)
            }
            result => result.map_err(rejected),
        }
    }

    fn attachments(&self) -> &dyn Attachments {
        &self.files
    }

    fn log(&self, _: &Place, line: &str) {
        self.platform.lines.component(line, &About { thread: self.thread.as_deref(), message: &self.message });
    }
}
