//! The environment of a worker's container: everything that the step contract wants it to know.

use flowline_sdk::{Contract, OperationKind, RemoteStep};
use url::Url;

use crate::{
    cipher::Cipher,
    listening::Addresses,
    names::{Names, Purpose},
};

/// Sizes of frames that both sides agree on: amqplib would ask for less than it needs.
pub(crate) const FRAME_MAX: u32 = 131_072;
/// The name of the only virtual host there is.
const VIRTUAL_HOST: &str = "flowline";
/// Who owns everything, for components that ask.
pub(crate) const OWNER: &str = "flowline";
/// So many that our own retry policy always ends first.
const NEVER: &str = "1000000";

/// A worker's credentials: one secret for each door.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    pub(crate) amqp: String,
    pub(crate) api: String,
    pub(crate) objects: String,
}

impl Secrets {
    pub(crate) fn random() -> Self {
        let secret = || hex::encode(rand::random::<[u8; 24]>());
        Self { amqp: secret(), api: secret(), objects: secret() }
    }
}

/// The bearer token of a worker for the object store.
pub(crate) fn token(worker: &str, secrets: &Secrets) -> String {
    format!("{worker}:{}", secrets.objects)
}

/// What every container is told, whatever it is started for.
pub(crate) fn identity(
    step: &RemoteStep,
    worker: &str,
    secrets: &Secrets,
    addresses: &Addresses,
) -> Vec<(String, String)> {
    let flow = step.queue.flow.as_str();
    let mut list = Vec::new();
    let mut set = |name: &str, value: &str| list.push((format!("ELASTICIO_{name}"), value.to_owned()));
    set("FLOW_ID", flow);
    set("TASK_ID", flow);
    set("FLOW_VERSION", &step.version.to_string());
    set("EXEC_ID", &format!("{flow}-{}", step.version));
    set("STEP_ID", step.queue.step.as_str());
    set("CONTAINER_ID", worker);
    set("WORKSPACE_ID", OWNER);
    set("CONTRACT_ID", OWNER);
    set("TENANT_ID", OWNER);
    set("USER_ID", OWNER);
    set("COMP_ID", &step.component);
    set("COMP_NAME", &step.component);
    set("FUNCTION", &step.function);
    set("API_URI", &addresses.api());
    set("API_USERNAME", worker);
    set("API_KEY", &secrets.api);
    set("API_REQUEST_RETRY_ATTEMPTS", "10");
    set("API_REQUEST_RETRY_DELAY", "1000");
    set("OBJECT_STORAGE_URI", &addresses.api());
    set("OBJECT_STORAGE_TOKEN", &token(worker, secrets));
    list
}

/// What a container that runs a step is told.
pub(crate) fn environment(
    step: &RemoteStep,
    worker: &str,
    secrets: &Secrets,
    addresses: &Addresses,
    cipher: &Cipher,
) -> Vec<(String, String)> {
    let names = Names::new(&step.queue);
    let (password, iv) = cipher.secrets();
    let mut list = identity(step, worker, secrets, addresses);
    let mut set = |name: &str, value: &str| list.push((format!("ELASTICIO_{name}"), value.to_owned()));
    set("AMQP_URI", &amqp_uri(worker, secrets, addresses));
    set("LISTEN_MESSAGES_ON", &names.queue());
    set("PUBLISH_MESSAGES_TO", &names.exchange());
    set("DATA_ROUTING_KEY", &names.key(&Purpose::Data));
    set("ERROR_ROUTING_KEY", &names.key(&Purpose::Error));
    set("REBOUND_ROUTING_KEY", &names.key(&Purpose::Rebound));
    set("SNAPSHOT_ROUTING_KEY", &names.key(&Purpose::Snapshot));
    set("MESSAGE_CRYPTO_PASSWORD", password);
    set("MESSAGE_CRYPTO_IV", iv);
    set("RABBITMQ_PREFETCH_SAILOR", &step.prefetch.max(1).to_string());
    set("REBOUND_LIMIT", NEVER);
    set("AMQP_RECONNECT_ATTEMPTS", NEVER);
    set("AMQP_RECONNECT_TIMEOUT", "1000");
    set("AMQP_PUBLISH_MAX_RETRY_DELAY", "5000");
    set("AMQP_PERSISTENT_MESSAGES", "true");
    set("PROTOCOL_VERSION", "2");
    // What the gateway does not keep up with it holds back by its confirms.
    for limit in ["DATA_RATE_LIMIT", "ERROR_RATE_LIMIT", "SNAPSHOT_RATE_LIMIT"] {
        set(limit, "2000");
    }
    set("EMIT_LIGHTWEIGHT_MESSAGE", "true");
    set("NO_SELF_PASSTRHOUGH", "true");
    set("TIMEOUT", &step.timeout.as_millis().to_string());
    if step.contract == Contract::Component && step.kind == OperationKind::Polling {
        set("STARTUP_REQUIRED", "true");
    }
    list
}

fn amqp_uri(worker: &str, secrets: &Secrets, addresses: &Addresses) -> String {
    let plain = format!("amqp://{}/{VIRTUAL_HOST}?frameMax={FRAME_MAX}&heartbeat=30", addresses.amqp);
    with_login(&plain, worker, &secrets.amqp)
}

/// A URL with user and password in it.
pub(crate) fn with_login(url: &str, user: &str, password: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return url.to_owned() };
    // Only URLs that cannot have a user refuse one.
    let set = parsed.set_username(user).and_then(|()| parsed.set_password(Some(password)));
    if set.is_ok() { parsed.into() } else { url.to_owned() }
}
