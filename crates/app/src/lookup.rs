//! Looking up: the commands that ask what is recorded get it from the server that runs on the
//! data folder, or from the data folder itself if none does.

use std::{collections::BTreeMap, path::Path};

use flowline_engine::{EngineError, Execution, ExecutionDetail, ExecutionFilter, FlowStatus, Records, WorkersStatus};
use flowline_model::{ExecutionId, FlowName, QueueName, StepId};
use flowline_queue::{DeadLetter, DeadLetterFilter, QueueDepth, QueueError, Replay};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cli::Source,
    client::Client,
    failure::{Failure, Outcome},
};

/// The file in the data folder that says where its server listens.
pub(crate) const ADDRESS_FILE: &str = "server.json";

/// What a running server says of itself in [`ADDRESS_FILE`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) url: String,
    pub(crate) process: u32,
}

/// Which dead letters: by id, by criteria, or expressly all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chosen {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ids: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flow: Option<FlowName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<StepId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    #[serde(default)]
    pub(crate) all: bool,
}

impl Chosen {
    /// The filter; none if nothing was chosen, which must not mean everything.
    pub(crate) fn filter(self) -> Option<DeadLetterFilter> {
        let named = !self.ids.is_empty() || self.flow.is_some() || self.step.is_some() || self.code.is_some();
        let Self { ids, flow, step, code, all } = self;
        (named != all).then_some(DeadLetterFilter { ids, flow, step, code, after: None })
    }
}

/// Where answers come from.
pub(crate) enum Lookup {
    /// A server that runs.
    Server(Client),
    /// The data folder of one that does not.
    Stopped(Records),
}

impl Lookup {
    /// The server that is named or runs on the data folder, or that folder.
    pub(crate) async fn open(source: &Source) -> Outcome<Self> {
        if let Some(client) = server(source).await? {
            return Ok(Self::Server(client));
        }
        Ok(Self::Stopped(open_records(&source.data.data).await?))
    }

    pub(crate) async fn queues(&self) -> Outcome<Vec<QueueDepth>> {
        match self {
            Self::Server(client) => client.list("queues", &[]).await,
            Self::Stopped(records) => Ok(records.queues().await?),
        }
    }

    /// The workers of steps that do not run in the server's process; none where no server runs.
    pub(crate) async fn workers(&self) -> Outcome<BTreeMap<QueueName, WorkersStatus>> {
        let Self::Server(client) = self else { return Ok(BTreeMap::new()) };
        let flows: Vec<FlowStatus> = client.list("flows", &[]).await?;
        let steps =
            flows.into_iter().flat_map(|flow| flow.steps.into_iter().map(move |step| (flow.name.clone(), step)));
        Ok(steps.filter_map(|(flow, step)| Some((QueueName::new(flow, step.id), step.workers?))).collect())
    }

    pub(crate) async fn executions(&self, filter: &ExecutionFilter) -> Outcome<Vec<Execution>> {
        match self {
            Self::Server(client) => client.list("executions", &query(filter)?).await,
            Self::Stopped(records) => Ok(records.executions(filter).await?),
        }
    }

    pub(crate) async fn execution(&self, id: ExecutionId) -> Outcome<ExecutionDetail> {
        match self {
            Self::Server(client) => client.get(&format!("executions/{id}")).await,
            Self::Stopped(records) => {
                let found = records.execution(id).await?;
                found.ok_or_else(|| Failure::new(format!("there is no execution {id}")))
            }
        }
    }

    pub(crate) async fn dead_letters(&self, filter: &DeadLetterFilter, limit: u32) -> Outcome<Vec<DeadLetter>> {
        match self {
            Self::Server(client) => {
                let mut query = query(filter)?;
                query.push(("limit".to_owned(), limit.to_string()));
                client.list("dead-letters", &query).await
            }
            Self::Stopped(records) => Ok(records.dead_letters(filter, limit as usize).await?),
        }
    }

    pub(crate) async fn dead_letter(&self, id: u64) -> Outcome<DeadLetter> {
        match self {
            Self::Server(client) => client.get(&format!("dead-letters/{id}")).await,
            Self::Stopped(records) => {
                let filter = DeadLetterFilter { ids: vec![id], ..DeadLetterFilter::default() };
                let found = records.dead_letters(&filter, 1).await?.into_iter().next();
                found.ok_or_else(|| Failure::new(format!("there is no dead letter {id}")))
            }
        }
    }
}

/// The server that is named, or that runs on the data folder; none if none runs.
pub(crate) async fn server(source: &Source) -> Outcome<Option<Client>> {
    let token = source.token.clone();
    if let Some(url) = &source.server {
        return Client::new(url, token).map(Some);
    }
    let file = source.data.data.join(ADDRESS_FILE);
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(None) };
    let Ok(address) = serde_json::from_str::<Address>(&text) else { return Ok(None) };
    let client = Client::new(&address.url, token)?;
    // A server that was killed leaves its address behind, and another may have taken it since.
    Ok(client.is_process(address.process).await.then_some(client))
}

/// Whether a server runs on a data folder.
pub(crate) async fn runs_on(data: &Path) -> bool {
    let data = crate::cli::Data { data: data.to_owned() };
    let source = Source { server: None, data, token: None, json: false };
    matches!(server(&source).await, Ok(Some(_)))
}

/// The server, where only a server will do.
pub(crate) async fn running_server(source: &Source) -> Outcome<Client> {
    server(source).await?.ok_or_else(|| {
        Failure::new(format!("no server runs on the data folder {}", source.data.data.display()))
            .hint("start it with `flowline up`, or name another with `--data DIR` or `--server URL`")
    })
}

async fn open_records(data: &Path) -> Outcome<Records> {
    Records::open(data).await.map_err(|error| match error {
        EngineError::NoData(_) => Failure::new(format!("there is no data folder {}", data.display()))
            .hint("name it with `--data DIR`, or a running server with `--server URL`"),
        error => error.into(),
    })
}

/// Replays dead letters; with `newest`, those of each flow go on with the version given there.
pub(crate) async fn replay(
    records: &Records,
    filter: DeadLetterFilter,
    body: Option<Value>,
    newest: Option<BTreeMap<FlowName, u32>>,
) -> Result<u64, EngineError> {
    let Some(newest) = newest else {
        return records.replay(&filter, &Replay { body, version: None }).await;
    };
    let meant = newest.into_iter().filter(|(flow, _)| filter.flow.as_ref().is_none_or(|wanted| wanted == flow));
    let mut count = 0;
    for (flow, version) in meant {
        let filter = DeadLetterFilter { flow: Some(flow), ..filter.clone() };
        count += records.replay(&filter, &Replay { body: body.clone(), version: Some(version) }).await?;
    }
    Ok(count)
}

/// What a filter says, as the query of an address.
fn query(filter: &impl Serialize) -> Outcome<Vec<(String, String)>> {
    let fields = serde_json::to_value(filter).map_err(|error| Failure::new(error.to_string()))?;
    let fields = fields.as_object().into_iter().flatten();
    let given = fields.filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), text)
    });
    Ok(given.collect())
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            EngineError::Queue(QueueError::InUse(_)) => failure.hint("choose another folder with `--data DIR`"),
            EngineError::Queue(QueueError::Unusable(_)) => failure.hint("look at it with `flowline doctor`"),
            EngineError::Queue(QueueError::Disk(_)) | EngineError::Folder(_) => {
                failure.hint("make room and let this user write there, or choose another folder with `--data DIR`")
            }
            _ => failure,
        }
    }
}
