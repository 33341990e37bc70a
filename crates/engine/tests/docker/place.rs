//! A server whose steps run in containers, and the programs that run there.

use std::{fs, sync::Arc, time::Duration};

use flowline_engine::{DockerSettings, Settings, StepStatus, WorkerTrouble, WorkersStatus};
use flowline_sdk::{Image, prelude::*};

use super::{
    broom,
    daemon::{Daemon, IMAGE},
    gateway::TestGateway,
    support::{Bench, numbers},
};

/// A worker: connects, and answers each message as `DOES` says.
const WORKER: &str = r#"
if [ -n "$SHUTDOWN" ]; then echo "undone"; exit "${SAYS:-0}"; fi
echo "worker up, does $DOES"
case "$DOES" in
  crash) echo "cannot go on" >&2; exit 3 ;;
  deaf) sleep 1000 ;;
  stubborn) trap '' TERM ;;
esac
mkfifo /tmp/in
nc $HOST $PORT < /tmp/in | {
  echo "$TOKEN"
  while read -r line; do
    case "$DOES" in
      memory) awk 'BEGIN { s = "x"; while (1) s = s s }'; kill -9 $$ ;;
      hang) case "$line" in *'"number":1'*) sleep 1000 ;; esac ;;
      slow) sleep 0.1 ;;
      look) { id -u; touch /here && echo writable; touch /tmp/here && echo scratch; } > /tmp/seen 2>/dev/null ;;
    esac
    echo "${SAYS:-ok}"
  done
} > /tmp/in
"#;

/// A server of its own, on a daemon.
pub(crate) struct Place {
    pub(crate) bench: Bench,
    pub(crate) daemon: Daemon,
    pub(crate) server: String,
    pub(crate) network: String,
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::on(Daemon::of_the_machine(), |_| {}).await
    }

    /// `before` is done before the server starts; it is given the server's id.
    pub(crate) async fn on(daemon: Daemon, before: impl FnOnce(&str)) -> Self {
        let network = format!("flowline-test-{:08x}", rand::random::<u32>());
        let server = format!("{:032x}", rand::random::<u128>());
        broom::after_server(&daemon, &server, &network);
        let docker = DockerSettings {
            host: daemon.host.clone(),
            network: network.clone(),
            grace: Duration::from_secs(2),
            deaf_after: Duration::from_secs(10),
            fewer_after: Duration::from_secs(1),
            none_after: Duration::from_secs(1),
            ..DockerSettings::default()
        };
        let gateway = Arc::new(TestGateway::default());
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("server"), &server).unwrap();
        before(&server);
        let change = |settings: Settings| Settings { gateway: Some(gateway), docker, ..settings };
        let bench = Bench::with(folder, Default::default(), Default::default(), operations(), change).await;
        Self { bench, daemon, server, network }
    }

    pub(crate) fn status(&self, step: &str) -> StepStatus {
        let flows = self.bench.engine.flows();
        flows[0].steps.iter().find(|status| status.id.as_str() == step).unwrap().clone()
    }

    pub(crate) fn workers(&self, step: &str) -> WorkersStatus {
        self.status(step).workers.unwrap_or_default()
    }

    pub(crate) fn running(&self, step: &str) -> u32 {
        self.workers(step).running
    }

    pub(crate) fn trouble(&self, step: &str) -> Option<WorkerTrouble> {
        self.workers(step).trouble
    }

    pub(crate) async fn until(&self, mut reached: impl FnMut(&Self) -> bool, what: &str) {
        for _ in 0..2_400 {
            if reached(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("waited in vain for {what}: {:#?}", self.bench.engine.flows());
    }

    pub(crate) async fn until_seen(&self, count: usize) {
        self.until(|place| place.bench.bodies().len() >= count, &format!("{count} messages")).await;
    }

    pub(crate) async fn publish(&self, count: u64) {
        let name = self.bench.engine.flows()[0].name.clone();
        self.bench.engine.publish(&name, numbers(count)).await.unwrap();
    }

    pub(crate) fn containers(&self, step: &str) -> Vec<String> {
        self.daemon.containers(&self.server, step)
    }

    /// Ends it; nothing may be left.
    pub(crate) async fn end(self) {
        self.bench.engine.shutdown().await;
        assert_eq!(self.daemon.all(&self.server), [""; 0], "containers are left");
        // There is none if nothing was started.
        self.daemon.succeeds(&["network", "rm", &self.network]);
    }
}

fn operations() -> Vec<Operation> {
    let image = |spec: OperationSpec, image: &str, command: &[&str]| {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let (name, function) = (image.to_owned(), "shell".to_owned());
        Operation::image(spec, Image { name, function, command, environment: Vec::new() })
    };
    let action = |name: &str| OperationSpec::action(name, "Shell", "Runs a shell.");
    vec![
        image(action("shell.work"), IMAGE, &["sh", "-c", WORKER]),
        image(OperationSpec::polling("shell.poll", "Shell", "Runs a shell."), IMAGE, &["sh", "-c", WORKER]),
        image(action("shell.absent"), "flowline-test-absent.invalid/no-such-image:1", &["sh"]),
        image(action("shell.broken"), IMAGE, &["no-such-program"]),
    ]
}

/// A flow with a step `work` in containers, and the target after it.
pub(crate) fn flow(step: &str) -> String {
    format!(
        "name: test\nsteps:\n  in: {{ use: test.count, schedule: {{ cron: \"0 0 29 2 *\" }}, with: {{ items: 1, chunk: 1 }} }}\n  \
         work: {{ after: in, {step} }}\n  target: {{ use: test.target, after: work }}\n"
    )
}

/// The same with a worker that does something.
pub(crate) fn does(what: &str, more: &str) -> String {
    flow(&format!("use: shell.work, with: {{ fields: {{ does: {what} }} }}{more}"))
}
