//! Steps in containers of a real Docker daemon: life, limits, crashes, takeover, nothing leaked.
//!
//! How messages travel is tested with the step gateway itself; here a small one stands in, and
//! the containers run a shell.

mod daemon;
mod gateway;
#[path = "../support/mod.rs"]
mod support;

use std::{fs, time::Duration};

use daemon::{Daemon, IMAGE, OwnDaemon};
use flowline_engine::{DockerSettings, Settings, StepStatus, WorkerTrouble, docker_network};
use flowline_sdk::{Image, prelude::*};
use gateway::TestGateway;
use support::{Bench, numbers};

/// A worker: connects, and answers each message as `DOES` says.
const WORKER: &str = r#"
echo "worker up"
[ "$DOES" = crash ] && { echo "cannot go on" >&2; exit 3; }
[ "$DOES" = deaf ] && { sleep 1000; }
mkfifo /tmp/in
nc $HOST $PORT < /tmp/in | {
  echo "$TOKEN"
  while read -r line; do
    case "$DOES" in
      memory) awk 'BEGIN { s = "x"; while (1) s = s s }'; kill -9 $$ ;;
      hang) case "$line" in *'"number":1'*) sleep 1000 ;; esac ;;
      slow) sleep 0.1 ;;
      look) id -u > /tmp/seen; touch /here 2>/dev/null && echo writable >> /tmp/seen
            n=0; while [ $n -lt 60 ]; do sleep 20 & n=$((n + 1)); done 2>/dev/null; kill $(jobs -p) 2>/dev/null ;;
    esac
    echo "${SAYS:-ok}"
  done
} > /tmp/in
"#;

struct Place {
    bench: Bench,
    daemon: Daemon,
    server: String,
    network: String,
}

impl Place {
    async fn new() -> Self {
        Self::on(Daemon::of_the_machine(), |_| {}).await
    }

    async fn on(daemon: Daemon, before: impl FnOnce(&str)) -> Self {
        let network = format!("flowline-test-{:08x}", rand::random::<u32>());
        let docker = DockerSettings {
            host: daemon.host.clone(),
            network: network.clone(),
            grace: Duration::from_secs(2),
            deaf_after: Duration::from_secs(5),
            ..DockerSettings::default()
        };
        let address = docker_network(&docker).await.unwrap();
        let gateway = TestGateway::listen(address).await;
        let folder = tempfile::tempdir().unwrap();
        let server = format!("{:032x}", rand::random::<u128>());
        fs::write(folder.path().join("server"), &server).unwrap();
        before(&server);
        let change = |settings: Settings| Settings { gateway: Some(gateway), docker, ..settings };
        let bench = Bench::with(folder, Default::default(), Default::default(), operations(), change).await;
        Self { bench, daemon, server, network }
    }

    fn status(&self, step: &str) -> StepStatus {
        let flows = self.bench.engine.flows();
        flows[0].steps.iter().find(|status| status.id.as_str() == step).unwrap().clone()
    }

    fn running(&self, step: &str) -> u32 {
        self.status(step).workers.map_or(0, |workers| workers.running)
    }

    fn trouble(&self, step: &str) -> Option<WorkerTrouble> {
        self.status(step).workers.and_then(|workers| workers.trouble)
    }

    async fn until(&self, mut reached: impl FnMut(&Self) -> bool, what: &str) {
        for _ in 0..1_200 {
            if reached(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("waited in vain for {what}: {:#?}", self.bench.engine.flows());
    }

    async fn until_seen(&self, count: usize) {
        self.until(|place| place.bench.bodies().len() >= count, &format!("{count} messages")).await;
    }

    async fn publish(&self, count: u64) {
        let name = self.bench.engine.flows()[0].name.clone();
        self.bench.engine.publish(&name, numbers(count)).await.unwrap();
    }

    fn containers(&self, step: &str) -> Vec<String> {
        self.daemon.containers(&self.server, step)
    }

    /// Ends it; nothing may be left.
    async fn end(self) {
        self.bench.engine.shutdown().await;
        assert_eq!(self.daemon.all(&self.server), [""; 0], "containers are left");
        self.daemon.docker(&["network", "rm", &self.network]);
    }
}

fn operations() -> Vec<Operation> {
    let image = |name: &str, image: &str, command: &[&str]| {
        let spec = OperationSpec::action(name, "Shell", "Runs a shell.");
        Operation::image(
            spec,
            Image {
                name: image.to_owned(),
                function: "shell".to_owned(),
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                environment: Vec::new(),
            },
        )
    };
    vec![
        image("shell.work", IMAGE, &["sh", "-c", WORKER]),
        image("shell.absent", "flowline-test-absent.invalid/no-such-image:1", &["sh"]),
        image("shell.broken", IMAGE, &["no-such-program"]),
    ]
}

/// A flow with a step `work` in containers, and the target after it.
fn flow(step: &str) -> String {
    format!(
        "name: test\nsteps:\n  in: {{ use: test.count, schedule: {{ cron: \"0 0 29 2 *\" }}, with: {{ items: 1, chunk: 1 }} }}\n  \
         work: {{ after: in, {step} }}\n  target: {{ use: test.target, after: work }}\n"
    )
}

fn does(what: &str, more: &str) -> String {
    flow(&format!("use: shell.work, with: {{ fields: {{ does: {what} }} }}{more}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_through_containers_that_get_no_more_than_they_need() {
    let place = Place::new().await;
    place.bench.apply(&does("look", ", workers: 2, container: { memory: 48MiB, cpus: 0.5, pids: 24 }")).await;
    place.until(|place| place.running("work") == 2, "two workers").await;
    place.publish(20).await;
    place.until_seen(20).await;
    let names = place.containers("work");
    assert_eq!(names.len(), 2);
    let inspect = |path: &str| place.daemon.docker(&["inspect", "-f", &format!("{{{{{path}}}}}"), &names[0]]);
    assert_eq!(inspect(".HostConfig.Memory"), (48 << 20).to_string());
    assert_eq!(inspect(".HostConfig.NanoCpus"), "500000000");
    assert_eq!(inspect(".HostConfig.PidsLimit"), "24");
    assert_eq!(inspect(".HostConfig.ReadonlyRootfs"), "true");
    assert_eq!(inspect(".HostConfig.CapDrop"), "[ALL]");
    assert_eq!(inspect(".HostConfig.SecurityOpt"), "[no-new-privileges]");
    assert_eq!(inspect(".HostConfig.RestartPolicy.Name"), "no");
    assert_eq!(inspect(".HostConfig.NetworkMode"), place.network);
    assert_eq!(inspect("len .NetworkSettings.Ports"), "0");
    // In force: not root, nothing writable but /tmp, and no more than so many processes.
    let seen = place.daemon.docker(&["exec", &names[0], "cat", "/tmp/seen"]);
    assert_eq!(seen, "65534");
    let pids = place.daemon.docker(&[
        "exec",
        &names[0],
        "sh",
        "-c",
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true",
    ]);
    assert_eq!(pids, "24");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_containers_lose_nothing() {
    let place = Place::new().await;
    place.bench.apply(&does("echo", ", workers: 2, retry: { first: 10ms }")).await;
    for round in 0..4 {
        place.publish(100).await;
        place.until(|place| place.running("work") == 2, "two workers").await;
        place.until_seen(round * 100 + 5).await;
        for name in place.containers("work") {
            place.daemon.succeeds(&["kill", "-s", "KILL", &name]);
        }
    }
    place.until_seen(400).await;
    place.bench.until_idle().await;
    assert_eq!(place.bench.bodies().len(), 400);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_out_of_memory_says_what_to_do() {
    let place = Place::new().await;
    place.bench.apply(&does("memory", ", container: { memory: 16MiB }, retry: false")).await;
    place.publish(1).await;
    place.until(|place| place.trouble("work").is_some(), "trouble").await;
    let told = place.trouble("work").unwrap().message;
    assert!(told.contains("out of memory at 16MiB") && told.contains("raise `container.memory`"), "{told}");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_backs_off_and_ends_when_it_is_mended() {
    let place = Place::new().await;
    place.bench.apply(&does("crash", "")).await;
    place.publish(3).await;
    place.until(|place| place.trouble("work").is_some_and(|told| told.failures >= 4), "a crash loop").await;
    let told = place.trouble("work").unwrap();
    assert!(told.message.contains("exit code 3"), "{told:?}");
    place.until(|place| place.trouble("work").is_some_and(|told| told.next_start.is_some()), "a wait").await;
    place.bench.apply(&does("echo", "")).await;
    place.until_seen(3).await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_starts_says_why_and_a_mended_version_takes_over() {
    let place = Place::new().await;
    for (operation, part) in [("shell.broken", "not found"), ("shell.absent", "is not there and cannot be fetched")] {
        place.bench.apply(&flow(&format!("use: {operation}"))).await;
        let told = |place: &Place| place.trouble("work").map(|told| told.message).unwrap_or_default();
        place.until(|place| told(place).contains(part) || told(place).contains("could not be started"), part).await;
    }
    place.publish(2).await;
    place.bench.apply(&does("echo", "")).await;
    place.until_seen(2).await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_container_is_replaced() {
    let place = Place::new().await;
    place.bench.apply(&does("deaf", "")).await;
    place.until(|place| place.containers("work").len() == 1, "a container").await;
    let first = place.containers("work");
    place
        .until(|place| place.trouble("work").is_some_and(|told| told.message.contains("took no messages")), "trouble")
        .await;
    place.until(|place| place.containers("work").iter().any(|name| !first.contains(name)), "another").await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_held_for_too_long_costs_its_worker() {
    let place = Place::new().await;
    place.bench.apply(&does("hang", ", timeout: 1s, retry: false, workers: 2")).await;
    place.publish(3).await;
    place.until_seen(2).await;
    let mut letters = Vec::new();
    for _ in 0..400 {
        letters = place.bench.engine.records().dead_letters(&Default::default(), 10).await.unwrap();
        if !letters.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(letters[0].fault.code, "timeout");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_an_earlier_process_are_removed_and_those_of_others_stay() {
    let other = format!("flowline-test-other-{:08x}", rand::random::<u32>());
    let daemon = Daemon::of_the_machine();
    let left = |server: &str| {
        for (name, label) in [(format!("flowline-left-{server}"), server), (other.clone(), "somebody-else")] {
            let label = format!("io.flowline.server={label}");
            daemon.docker(&["run", "-d", "--name", &name, "--label", &label, IMAGE, "sleep", "1000"]);
        }
    };
    let place = Place::on(daemon.clone(), left).await;
    place.until(|place| place.daemon.all(&place.server).is_empty(), "the earlier container to go").await;
    assert_eq!(daemon.docker(&["ps", "-q", "--filter", &format!("name={other}")]).lines().count(), 1);
    daemon.docker(&["rm", "-f", &other]);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_one_step_and_leaves_its_neighbours_alone() {
    let place = Place::new().await;
    let two = |says: &str, operation: &str| {
        format!(
            "{}  more: {{ use: shell.work, after: work, with: {{ fields: {{ does: echo }} }} }}\n  \
             end: {{ use: test.target, after: more }}\n",
            flow(&format!("use: {operation}, with: {{ fields: {{ does: slow, says: {says} }} }}"))
        )
    };
    place.bench.apply(&two("old", "shell.work")).await;
    place.until(|place| place.running("work") == 1 && place.running("more") == 1, "workers").await;
    let (old, neighbour) = (place.containers("work"), place.containers("more"));
    place.publish(50).await;
    place.until_seen(10).await;
    place.bench.apply(&two("new", "shell.work")).await;
    place.until(|place| place.bench.bodies().contains(&json!("new")), "the new version").await;
    place.until(|place| !place.containers("work").contains(&old[0]), "the old container to go").await;
    place.until_seen(100).await;
    place.bench.until_idle().await;
    assert_eq!(place.bench.bodies().len(), 100);
    assert_eq!(place.containers("more"), neighbour);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_with_the_backlog() {
    let place = Place::new().await;
    place.bench.apply(&does("slow", ", workers: { min: 0, max: 3 }")).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(place.containers("work").len(), 0);
    place.publish(100).await;
    place.until(|place| place.running("work") == 3, "three workers").await;
    place.until_seen(100).await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_may_go_and_come_back() {
    let mut own = OwnDaemon::start();
    let place = Place::on(own.daemon(), |_| {}).await;
    place.bench.apply(&does("slow", ", retry: { first: 10ms }")).await;
    place.publish(30).await;
    place.until_seen(5).await;
    own.stop();
    place.until(|place| place.running("work") == 0, "no worker").await;
    place.publish(10).await;
    own.run();
    place.until_seen(40).await;
    place.end().await;
}
