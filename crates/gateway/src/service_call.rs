//! Service calls: a component's own checks and lookups, run once in a container of their own,
//! whose result it posts to a link that is good for one result.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    environment::{OWNER, with_login},
    gateway::{Gateway, Shared},
};

/// Results that are waited for at the same time.
const MOST_EXPECTED: usize = 1000;

/// What a component is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Whether its credentials work.
    VerifyCredentials,
    /// The schemas of what an operation takes and gives.
    GetMetaModel,
    /// What may be chosen for a field.
    SelectModel,
}

impl Verb {
    /// As the command line of a service call names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VerifyCredentials => "verifyCredentials",
            Self::GetMetaModel => "getMetaModel",
            Self::SelectModel => "selectModel",
        }
    }
}

/// One service call.
#[derive(Debug, Clone)]
pub struct ServiceCall {
    /// What the component is asked.
    pub verb: Verb,
    /// The component's name.
    pub component: String,
    /// The trigger or action that it is about; not for `verifyCredentials`.
    pub function: Option<String>,
    /// The method of the field's model, for `selectModel`.
    pub method: Option<String>,
    /// Fields and credential, flat.
    pub config: Value,
}

/// What a service call came to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "data")]
pub enum ServiceResult {
    /// What the component answered.
    Success(Value),
    /// Why it could not answer: an object with a `message`.
    Error(Value),
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The component took too long.
    #[error("the component did not answer within {0:?}")]
    TimedOut(Duration),
    /// The gateway ended, or too many results were waited for.
    #[error("the gateway does not wait for this result any more")]
    Gone,
}

struct Expectation {
    secret: String,
    answer: oneshot::Sender<ServiceResult>,
}

/// The results that are waited for.
#[derive(Default)]
pub(crate) struct Results {
    expected: Mutex<HashMap<Uuid, Expectation>>,
}

impl Results {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Expectation>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a result with this secret is waited for.
    pub(crate) fn is_expected(&self, id: Uuid, secret: &str) -> bool {
        self.lock().get(&id).is_some_and(|expected| expected.secret.as_bytes().ct_eq(secret.as_bytes()).into())
    }

    /// Takes a result.
    pub(crate) fn arrived(&self, id: Uuid, result: ServiceResult) {
        if let Some(expected) = self.lock().remove(&id) {
            // Whoever waited may have gone.
            let _ = expected.answer.send(result);
        }
    }
}

/// A result that is waited for: the future ends when the component posts it. Dropping it ends
/// the wait and the link.
pub struct ExpectedResult {
    id: Uuid,
    shared: Arc<Shared>,
    answer: oneshot::Receiver<ServiceResult>,
    stop: CancellationToken,
}

impl ExpectedResult {
    /// Waits at most so long.
    pub async fn within(self, limit: Duration) -> Result<ServiceResult, ResultError> {
        let stop = self.stop.clone();
        tokio::select! {
            result = tokio::time::timeout(limit, self) => result.map_err(|_| ResultError::TimedOut(limit))?,
            () = stop.cancelled() => Err(ResultError::Gone),
        }
    }
}

impl Future for ExpectedResult {
    type Output = Result<ServiceResult, ResultError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.map_err(|_| ResultError::Gone))
    }
}

impl Drop for ExpectedResult {
    fn drop(&mut self) {
        self.shared.results.lock().remove(&self.id);
    }
}

impl Gateway {
    /// A link to which one result may be posted, with its credentials in it, and the wait for it.
    pub fn expect_result(&self) -> (String, ExpectedResult) {
        let (id, secret) = (Uuid::from_bytes(rand::random()), hex::encode(rand::random::<[u8; 24]>()));
        let (sender, answer) = oneshot::channel();
        let mut expected = self.shared.results.lock();
        if expected.len() < MOST_EXPECTED {
            expected.insert(id, Expectation { secret: secret.clone(), answer: sender });
        }
        drop(expected);
        let url = with_login(&format!("{}/results/{id}", self.addresses().api()), "result", &secret);
        (url, ExpectedResult { id, shared: Arc::clone(&self.shared), answer, stop: self.stop.clone() })
    }

    /// The environment of a service call's container that posts its result to this link.
    pub fn service_environment(&self, call: &ServiceCall, result_url: &str) -> Vec<(String, String)> {
        let mut list = Vec::new();
        let mut set = |name: &str, value: &str| list.push((format!("ELASTICIO_{name}"), value.to_owned()));
        set("POST_RESULT_URL", result_url);
        set("CFG", &call.config.to_string());
        set("API_URI", &self.addresses().api());
        set("API_USERNAME", "service");
        set("API_KEY", "none");
        set("API_REQUEST_RETRY_ATTEMPTS", "5");
        set("API_REQUEST_RETRY_DELAY", "500");
        set("COMP_ID", &call.component);
        set("COMP_NAME", &call.component);
        for name in ["WORKSPACE_ID", "CONTRACT_ID", "TENANT_ID", "USER_ID", "FLOW_ID", "STEP_ID"] {
            set(name, OWNER);
        }
        if let Some(function) = &call.function {
            set("ACTION_OR_TRIGGER", function);
            set("FUNCTION", function);
        }
        if let Some(method) = &call.method {
            set("GET_MODEL_METHOD", method);
        }
        list
    }
}
