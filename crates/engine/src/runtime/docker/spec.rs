//! What a step's container is: from plan, image and limits to what Docker is asked for. Pure.
//!
//! A container gets no more than it needs: no privileges, no ports, no writable file system but a
//! small `/tmp`, bounded memory, processors, processes and log.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum};
use flowline_model::{ContainerLimits, QueueName};

/// Marks the containers of a server: the id of its data folder.
pub(crate) const SERVER: &str = "io.flowline.server";
const FLOW: &str = "io.flowline.flow";
const STEP: &str = "io.flowline.step";
const VERSION: &str = "io.flowline.version";
const WORKER: &str = "io.flowline.worker";

/// What all containers of a step have in common.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The id of the server.
    pub(crate) server: String,
    /// The step.
    pub(crate) queue: QueueName,
    /// The version of the flow.
    pub(crate) version: u32,
    /// The image.
    pub(crate) image: String,
    /// What is started in it; empty takes what the image says.
    pub(crate) command: Vec<String>,
    /// Environment that all of them get.
    pub(crate) environment: Vec<(String, String)>,
    /// How much one may use.
    pub(crate) limits: ContainerLimits,
    /// The network they are on: its name, or its id.
    pub(crate) network: String,
    /// Who they run as, if the image says nothing or root.
    pub(crate) user: String,
}

/// The user to run as: that of the image, unless it is root.
pub(crate) fn user(of_image: Option<&str>, otherwise: &str) -> String {
    let named = of_image.map(str::trim).filter(|user| !user.is_empty());
    let is_root = |user: &&str| ["root", "0"].contains(&user.split(':').next().unwrap_or_default());
    named.filter(|user| !is_root(user)).unwrap_or(otherwise).to_owned()
}

/// What Docker is asked for: one worker of a step.
pub(crate) fn container(
    recipe: &Recipe,
    worker: &str,
    user: String,
    admitted: Vec<(String, String)>,
) -> ContainerCreateBody {
    // What admits the worker comes last: no component overrides where it connects to.
    let environment = recipe.environment.iter().cloned().chain(admitted);
    let command = (!recipe.command.is_empty()).then(|| recipe.command.clone());
    ContainerCreateBody {
        image: Some(recipe.image.clone()),
        cmd: command.as_ref().map(|_| Vec::new()),
        entrypoint: command,
        env: Some(environment.map(|(name, value)| format!("{name}={value}")).collect()),
        user: Some(user),
        labels: Some(labels(recipe, worker)),
        host_config: Some(host(recipe)),
        ..ContainerCreateBody::default()
    }
}

fn labels(recipe: &Recipe, worker: &str) -> HashMap<String, String> {
    let labels = [
        (SERVER, recipe.server.clone()),
        (FLOW, recipe.queue.flow.to_string()),
        (STEP, recipe.queue.step.to_string()),
        (VERSION, recipe.version.to_string()),
        (WORKER, worker.to_owned()),
    ];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn host(recipe: &Recipe) -> HostConfig {
    let limits = recipe.limits;
    let memory = i64::try_from(limits.memory.0).unwrap_or(i64::MAX);
    HostConfig {
        memory: Some(memory),
        // The same: no swap.
        memory_swap: Some(memory),
        nano_cpus: Some(nanos(limits.cpus)),
        pids_limit: Some(i64::from(limits.pids)),
        readonly_rootfs: Some(true),
        tmpfs: Some(map([("/tmp", "rw,nosuid,nodev,size=64m,mode=1777")])),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        init: Some(true),
        network_mode: Some(recipe.network.clone()),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(map([("max-size", "4m"), ("max-file", "2")])),
        }),
        ..HostConfig::default()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a document says at most 1000 processors")]
fn nanos(cpus: f64) -> i64 {
    (cpus * 1e9) as i64
}

fn map<const N: usize>(entries: [(&str, &str); N]) -> HashMap<String, String> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use flowline_model::{FlowName, Size, StepId};

    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            server: "s1".into(),
            queue: QueueName::new(FlowName::new("orders").unwrap(), StepId::new("send").unwrap()),
            version: 3,
            image: "shop:1".into(),
            command: vec!["node".into(), "run.js".into()],
            environment: vec![("LOG_LEVEL".into(), "info".into())],
            limits: ContainerLimits { memory: Size::mib(64), cpus: 0.5, pids: 40 },
            network: "flowline".into(),
            user: "65534:65534".into(),
        }
    }

    #[test]
    fn a_container_gets_no_more_than_it_needs() {
        let body = container(&recipe(), "w1", "node".into(), vec![("TOKEN".into(), "t".into())]);
        let host = body.host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(40)));
        assert_eq!((host.readonly_rootfs, host.init, host.privileged), (Some(true), Some(true), None));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert!(host.port_bindings.is_none() && host.binds.is_none() && host.cap_add.is_none());
        assert_eq!(body.env.unwrap(), ["LOG_LEVEL=info", "TOKEN=t"]);
        assert_eq!((body.entrypoint.unwrap().len(), body.cmd.unwrap().len()), (2, 0));
        assert_eq!(body.labels.unwrap()[SERVER], "s1");
    }

    #[test]
    fn what_the_image_says_is_started_where_nothing_else_is_said() {
        let body = container(&Recipe { command: Vec::new(), ..recipe() }, "w1", "node".into(), Vec::new());
        assert!(body.entrypoint.is_none() && body.cmd.is_none());
    }

    #[test]
    fn nobody_is_root() {
        for (said, expected) in
            [(None, "9"), (Some(""), "9"), (Some("root"), "9"), (Some("0:0"), "9"), (Some("node"), "node")]
        {
            assert_eq!(user(said, "9"), expected, "{said:?}");
        }
    }
}
