//! The real `flowline` as a child process: started on the same folder and port as often as a
//! test likes, killed without warning, asked over its API.

use std::{
    fs::{self, File, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{client, eventually};

/// What stays the same when the process is killed: the folder, the flows and the address.
pub(crate) struct Installation {
    folder: TempDir,
    port: u16,
    secrets: Vec<(String, String)>,
}

impl Installation {
    /// A new folder with a configuration file and these flows, by file name.
    pub(crate) fn new(configuration: &str, flows: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("flows")).expect("a folder for flows");
        fs::write(folder.path().join("flowline.yaml"), configuration).expect("a configuration file");
        for (name, text) in flows {
            fs::write(folder.path().join("flows").join(name), text).expect("a flow file");
        }
        if !flows.is_empty() {
            let checked = Command::new(binary("flowline")).arg("check").arg(folder.path().join("flows")).output();
            let checked = checked.expect("flowline starts");
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        }
        Self { folder, port: free_port(), secrets: Vec::new() }
    }

    /// Writes another version of a flow.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("flows").join(name), text).expect("a flow file");
    }

    /// With a secret that flows may read.
    pub(crate) fn with_secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.push((format!("FLOWLINE_SECRET_{}", name.to_ascii_uppercase()), value.to_owned()));
        self
    }

    /// The folder of everything durable.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs a command of `flowline` on its data folder that has to succeed; what it wrote.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary("flowline"))
            .args(arguments)
            .arg("--data")
            .arg(self.data())
            .envs(self.secrets.iter().cloned())
            .output()
            .expect("flowline starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Where its server answers.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Starts the process; it may take a while until it is ready.
    pub(crate) fn start(&self) -> Program {
        let folder = self.folder.path();
        let log = OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log file");
        let child = Command::new(binary("flowline"))
            .arg("up")
            .arg(folder.join("flows"))
            .arg("--data")
            .arg(folder.join("data"))
            .arg("--config")
            .arg(folder.join("flowline.yaml"))
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .envs(self.secrets.iter().cloned())
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log)
            .spawn()
            .expect("flowline starts");
        Program { child }
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn up(&self) -> Program {
        let mut program = self.start();
        let client = client::new();
        eventually("flowline is ready", async || {
            assert!(program.runs(), "flowline ended:\n{}", self.log());
            self.is_ready(&client).await
        })
        .await;
        program
    }

    /// Whether everything is in place to accept messages.
    pub(crate) async fn is_ready(&self, client: &reqwest::Client) -> bool {
        let answer = client.get(self.url("/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Asks the API.
    pub(crate) async fn api(&self, path: &str) -> Value {
        let answer = client::new().get(self.url(&format!("/api/v1{path}"))).send().await.expect("the API answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("the API answers in JSON")
    }

    /// Every dead letter of a flow.
    pub(crate) async fn dead_letters(&self, flow: &str) -> Vec<Value> {
        let (mut letters, mut after) = (Vec::new(), 0);
        loop {
            let page = self.api(&format!("/dead-letters?flow={flow}&limit=1000&after={after}")).await;
            letters.extend(page["dead_letters"].as_array().cloned().unwrap_or_default());
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => return letters,
            }
        }
    }

    /// The end of what the process wrote.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of flowline's log\n{}\n---", self.log());
        }
    }
}

/// A running process; killed when it is dropped.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts another program of the project that takes only arguments.
    pub(crate) fn of(name: &str, arguments: &[&str], log: &Path) -> Self {
        let log = File::create(log).expect("a log file");
        let program = binary(name);
        let child = Command::new(&program).args(arguments).stdout(log).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{}: {error}; is it built?", program.display())) }
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(asked.is_ok_and(|status| status.success()), "the process can be asked to end");
        self.child.wait().expect("the process ends");
    }

    /// Ends it as `kill -9` does, without a chance to tidy up.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A program of the project. `FLOWLINE_BIN` names another `flowline`, such as a release build,
/// and the other programs are taken from beside it.
fn binary(name: &str) -> PathBuf {
    let flowline =
        std::env::var_os("FLOWLINE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_flowline").into(), PathBuf::from);
    flowline.with_file_name(name)
}

/// A port on which nobody listens at this moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// How long a client waits for one answer.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
