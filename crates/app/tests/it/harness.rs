//! What the tests share: a folder to work in, the program, a server, and requests byte by byte.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long a test waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of its own for each test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The program, in this folder and in an environment that says nothing.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowline"));
        command.current_dir(self.path()).args(arguments).stdin(Stdio::null());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("COLUMNS", "100");
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the program with a text on standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What the program prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)))
    }
}

/// Exit code, standard output and standard error as one text.
pub(crate) fn shown(output: &Output) -> String {
    let mut text = format!("exit: {}\n", output.status.code().map_or_else(|| "signal".into(), |code| code.to_string()));
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            write!(text, "--- {name}\n{}", String::from_utf8_lossy(bytes)).unwrap();
        }
    }
    text
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// A server that runs, on a port of its own; killed if the test does not stop it.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    data: PathBuf,
}

impl Server {
    /// Starts a server on the folder's `flows`.
    pub(crate) fn start(folder: &Folder, more: &[&str]) -> Self {
        let arguments = [&["up", "flows", "--listen", "127.0.0.1:0"], more].concat();
        Self::spawn(folder, folder.command(&arguments))
    }

    pub(crate) fn spawn(folder: &Folder, mut command: Command) -> Self {
        let log = fs::File::create(folder.path().join("up.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let data = folder.path().join("data");
        let _ = fs::remove_file(data.join("server.json"));
        let child = command.spawn().unwrap();
        let mut server = Self { child, address: String::new(), data };
        until("the server has an address", || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", server.log());
            server.find_address()
        });
        until("the server is ready", || server.get("/readyz").status == 200);
        server
    }

    fn find_address(&mut self) -> bool {
        let Ok(text) = fs::read_to_string(self.data.join("server.json")) else { return false };
        let Ok(address) = serde_json::from_str::<Value>(&text) else { return false };
        self.address = address["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
        true
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.parent().unwrap().join("up.log")).unwrap_or_default()
    }

    /// A connection on which a test can be as slow as it likes.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request with these headers and no others but `Host`.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            write!(head, "host: {}\r\n", self.address).unwrap();
        }
        headers.iter().for_each(|(name, value)| write!(head, "{name}: {value}\r\n").unwrap());
        let mut stream = self.connect();
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        Answer::read(&mut stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "")
    }

    pub(crate) fn post_json(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, &[("content-type", "application/json")], body)
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Asks the server to stop; returns its exit code and how long it took.
    pub(crate) fn stop(mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        self.signal("-TERM");
        (self.child.wait().unwrap().code(), begun.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads until the other side closes; a connection that is cut off has status 0.
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A flow with a webhook that passes numbers on and cannot pass on anything else.
pub(crate) const NUMBERS: &str = "\
name: numbers
steps:
  form:
    use: webhook.receive
  convert:
    use: transform.map
    after: form
    with: { map: { n: \"{{ $number(x) }}\" } }
  say:
    use: log.write
    after: convert
    with: { text: \"number {{ n }}\" }
";
