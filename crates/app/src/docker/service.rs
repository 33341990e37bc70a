//! Asking a component: its own code runs once, in a container of its own, and posts its answer.

use std::time::Duration;

use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{CreateContainerOptions, LogsOptionsBuilder, StartContainerOptions, WaitContainerOptions},
};
use flowline_engine::{ContainerNetwork, DockerSettings};
use flowline_gateway::{Gateway, ResultError, ServiceCall, ServiceResult, Settings};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{Engine, failed};
use crate::failure::{Doing as _, Failure, Outcome};

/// What a container may use.
const MEMORY: i64 = 512 << 20;
const PROCESSES: i64 = 256;
/// How long an answer may still be on its way when the container has ended.
const LATE: Duration = Duration::from_secs(1);
/// Bytes of a container's log that are shown when it gave no answer.
const SHOWN: usize = 2_000;

/// A question to a component.
pub(crate) struct Question<'a> {
    pub(crate) image: &'a str,
    /// What is started for questions, without the question.
    pub(crate) command: Vec<String>,
    pub(crate) environment: &'a [(String, String)],
    pub(crate) call: ServiceCall,
    pub(crate) within: Duration,
}

impl Engine {
    /// Asks; the container is gone afterwards, whatever came of it.
    pub(crate) async fn ask(&self, question: &Question<'_>) -> Outcome<ServiceResult> {
        let folder = tempfile::tempdir().doing(|| "no temporary folder can be made".to_owned())?;
        let network = self.network().await?;
        let gateway = Gateway::bind(Settings::new(folder.path()), network.address).await.map_err(|error| {
            Failure::new(format!("containers cannot be listened to: {error}"))
                .hint("this command must run on the machine of the Docker engine")
        })?;
        let (url, answer) = gateway.expect_result();
        let mut environment = gateway.service_environment(&question.call, &url);
        environment.extend(question.environment.iter().cloned());
        let container = self.container(question, environment, network.id).await?;
        let outcome = tokio::select! {
            answer = answer.within(question.within) => answer.map_err(|error| no_answer(&error)),
            ended = self.end_of(&container) => Err(ended),
            _ = tokio::signal::ctrl_c() => Err(Failure::new("interrupted")),
        };
        self.remove(&container).await;
        outcome
    }

    /// The network of steps, unless something else is configured for those.
    async fn network(&self) -> Outcome<ContainerNetwork> {
        let name = DockerSettings::default().network;
        let network = ContainerNetwork::ensure(&self.0, &name).await;
        let network = network.map_err(|error| failed("the network of containers is not known", &error))?;
        network.ok_or_else(|| Failure::new(format!("the network `{name}` has no gateway address: is it a bridge?")))
    }

    async fn container(
        &self,
        question: &Question<'_>,
        environment: Vec<(String, String)>,
        network: String,
    ) -> Outcome<String> {
        let limits = HostConfig {
            network_mode: Some(network),
            memory: Some(MEMORY),
            pids_limit: Some(PROCESSES),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            tmpfs: Some([("/tmp".to_owned(), "size=64m".to_owned())].into()),
            init: Some(true),
            ..HostConfig::default()
        };
        let mut command = question.command.clone();
        command.push(question.call.verb.as_str().to_owned());
        let body = ContainerCreateBody {
            image: Some(question.image.to_owned()),
            // The entry point of some images runs steps already: it is replaced, not only its arguments.
            entrypoint: Some(command),
            cmd: Some(Vec::new()),
            env: Some(environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            host_config: Some(limits),
            ..ContainerCreateBody::default()
        };
        let what = || format!("the component cannot be started from the image {}", question.image);
        let created = self.0.create_container(None::<CreateContainerOptions>, body).await;
        let container = created.map_err(|error| failed(&what(), &error))?.id;
        if let Err(error) = self.0.start_container(&container, None::<StartContainerOptions>).await {
            self.remove(&container).await;
            return Err(failed(&what(), &error));
        }
        Ok(container)
    }

    /// Waits until the container ends, and says so; an answer may come a moment later.
    async fn end_of(&self, container: &str) -> Failure {
        // An exit code other than zero comes as an error: it is told with the log.
        let ended = self.0.wait_container(container, None::<WaitContainerOptions>).next().await;
        tokio::time::sleep(LATE).await;
        let code = match ended {
            Some(Ok(ended)) => ended.status_code,
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
            _ => -1,
        };
        let reason = if code == 137 { " (out of memory, or killed)" } else { "" };
        let failure = Failure::new(format!("the component ended with exit code {code}{reason} and gave no answer"));
        match self.last_lines(container).await {
            lines if lines.is_empty() => failure,
            lines => failure.hint(format!("it said last:\n{lines}")),
        }
    }

    async fn last_lines(&self, container: &str) -> String {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("20").build();
        let mut lines = self.0.logs(container, Some(options));
        let mut text = String::new();
        while let Ok(Some(line)) = lines.try_next().await {
            text.push_str(&line.to_string());
            if text.len() > SHOWN {
                break;
            }
        }
        text.trim_end().to_owned()
    }
}

fn no_answer(error: &ResultError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        ResultError::TimedOut(_) => failure.hint("give it longer with `--timeout`"),
        ResultError::Gone => failure,
    }
}
