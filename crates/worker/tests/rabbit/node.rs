//! A RabbitMQ node of its own, on free ports, gone when the test is over.

use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Node {
    folder: TempDir,
    ports: [u16; 3],
    server: Option<Child>,
}

/// A port that nobody uses at this moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Node {
    pub(crate) fn start() -> Self {
        let mut node =
            Self { folder: tempfile::tempdir().unwrap(), ports: [free_port(), free_port(), free_port()], server: None };
        node.launch();
        node
    }

    fn command(&self, program: &str) -> Command {
        let [port, dist, epmd] = self.ports;
        let folder = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(PathBuf::from("/usr/lib/rabbitmq/bin").join(program));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("RABBITMQ_NODENAME", format!("flowline{port}@localhost"))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", dist.to_string())
            .env("ERL_EPMD_PORT", epmd.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", folder("env"))
            .env("RABBITMQ_CONFIG_FILE", folder("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts the server and waits until it takes connections.
    pub(crate) fn launch(&mut self) {
        let server = self.command("rabbitmq-server").spawn();
        self.server = Some(server.expect("rabbitmq-server is needed: apt-get install rabbitmq-server"));
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.ports[0])).is_err() {
            assert!(Instant::now() < end, "RabbitMQ did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server in order; what is durable stays.
    pub(crate) fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let stopped = self.command("rabbitmqctl").args(["shutdown", "--wait"]).status();
        if !stopped.is_ok_and(|status| status.success()) {
            let _ = server.kill();
        }
        let _ = server.wait();
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f?heartbeat=30", self.ports[0])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
        // The port mapper of this node's own port is a daemon of its own.
        let _ = self.command("../../../bin/epmd").args(["-port", &self.ports[2].to_string(), "-kill"]).status();
    }
}
