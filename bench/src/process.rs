//! Processes of a benchmark: started, asked for their address, measured from outside, killed.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// Clock ticks per second in `/proc`: the same on every Linux machine of today.
const TICKS: f64 = 100.0;

/// Serves on a free port and prints the address, for [`Process::of_this`].
pub(crate) async fn serve(host: &str, router: Router) -> Result<()> {
    let listener = tokio::net::TcpListener::bind((host, 0)).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

/// An HTTP client as the engine uses it.
pub(crate) fn client() -> Result<reqwest::Client> {
    // Fails when it was done before, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    Ok(reqwest::Client::builder().build()?)
}

/// A child process; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts another part of this program and reads the address that it prints.
    pub(crate) fn of_this(arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?).args(arguments).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("`{arguments:?}` printed no address"))?;
        Ok(Self { child, address })
    }

    /// CPU seconds so far, of the process with all its threads.
    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu_of(self.child.id())
    }

    /// Resident memory in MB (10⁶ bytes).
    pub(crate) fn memory(&self) -> Result<f64> {
        status(&self.child.id().to_string(), "VmRSS:")
    }

    /// The most resident memory there ever was, in MB.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        status(&self.child.id().to_string(), "VmHWM:")
    }

    /// Asks it for JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = format!("http://{}{path}", self.address);
        Ok(client()?.get(url).send().await?.error_for_status()?.json().await?)
    }

    /// Asks it to end in good order and waits until it has.
    pub(crate) fn end(mut self) -> Result<()> {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status()?;
        ensure!(asked.success(), "the process cannot be asked to end");
        self.child.wait()?;
        Ok(())
    }
}

/// CPU seconds of a process so far, with all its threads.
pub(crate) fn cpu_of(process: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the name in parentheses and may hold spaces.
    let (_, rest) = text.rsplit_once(')').context("/proc/…/stat reads otherwise")?;
    let field = |index: usize| rest.split_whitespace().nth(index).and_then(|text| text.parse::<f64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    Ok(ticks.context("/proc/…/stat reads otherwise")? / TICKS)
}

/// Resident memory of a process, in MB.
pub(crate) fn memory_of(process: u32) -> Result<f64> {
    status(&process.to_string(), "VmRSS:")
}

/// Resident memory of the benchmark itself, in MB.
pub(crate) fn memory_of_this() -> Result<f64> {
    status("self", "VmRSS:")
}

fn status(process: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("the process has ended")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1_024.0 / 1e6)
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs another part of this program to its end and reads the JSON that it prints.
pub(crate) async fn run<T: DeserializeOwned>(arguments: Vec<String>) -> Result<T> {
    let program = std::env::current_exe()?;
    let output =
        tokio::task::spawn_blocking(move || Command::new(program).args(arguments).stderr(Stdio::inherit()).output());
    let output = output.await??;
    ensure!(output.status.success(), "a part of the benchmark failed: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A folder with flows in which the real `flowline` runs.
pub(crate) struct Installation {
    folder: TempDir,
    binary: PathBuf,
    environment: Vec<(String, String)>,
}

impl Installation {
    /// A new folder with these flows, by name.
    pub(crate) fn new(binary: &Path, flows: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("flows"))?;
        for (name, text) in flows {
            fs::write(folder.path().join("flows").join(format!("{name}.yaml")), text)?;
        }
        Ok(Self { folder, binary: binary.to_owned(), environment: Vec::new() })
    }

    /// With a setting by its variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs another command on the data folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.binary).args(arguments).arg("--data").arg(self.path("data")).output()?;
        let trouble = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "flowline {arguments:?}: {trouble}");
        Ok(())
    }

    /// A path inside the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the server without waiting for it.
    pub(crate) fn start(&self) -> Result<Process> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = fs::File::create(self.path("log"))?;
        let child = Command::new(&self.binary)
            .arg("up")
            .arg(self.path("flows"))
            .arg("--data")
            .arg(self.path("data"))
            .args(["--listen", &address.to_string()])
            .envs(self.environment.iter().cloned())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", self.binary.display()))?;
        Ok(Process { child, address })
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn up(&self) -> Result<Process> {
        let process = self.start()?;
        let begin = Instant::now();
        let client = client()?;
        let url = format!("http://{}/readyz", process.address);
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if begin.elapsed() > Duration::from_secs(60) {
                bail!("flowline is not ready; it said:\n{}", fs::read_to_string(self.path("log"))?);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(process)
    }
}
