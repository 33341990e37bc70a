//! The Docker daemon of the tests, by its command line: what is seen and done from outside.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::broom;

/// The image of the tests: nothing but a shell. Another content needs another name.
pub(crate) const IMAGE: &str = "flowline-test-shell:2";
/// What the shell has besides itself.
const TOOLS: [&str; 11] = ["sh", "nc", "awk", "sleep", "mkfifo", "id", "touch", "cat", "head", "kill", "wc"];

/// A daemon, by its address; none is the one that `docker` finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Daemon {
    pub(crate) host: Option<String>,
}

impl Daemon {
    /// The machine's own, with the image of the tests.
    pub(crate) fn of_the_machine() -> Self {
        let daemon = Self::default();
        // Tests run side by side, in processes of their own.
        let lock = fs::File::create(std::env::temp_dir().join("flowline-test-image.lock")).unwrap();
        lock.lock().unwrap();
        if !daemon.succeeds(&["image", "inspect", IMAGE]) {
            daemon.import();
        }
        daemon
    }

    /// What `docker` says; fails if it fails.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("docker is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Whether `docker` succeeds.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> bool {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(self.host.iter().flat_map(|host| ["--host", host])).args(arguments);
        command
    }

    fn import(&self) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["bin", "tmp", "etc"] {
            fs::create_dir(at(name)).unwrap();
        }
        // Docker gives a tmpfs the mode of the folder below it.
        fs::set_permissions(at("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.expect("busybox-static is installed"), at("bin/busybox")).unwrap();
        for tool in TOOLS {
            std::os::unix::fs::symlink("busybox", at("bin").join(tool)).unwrap();
        }
        let tar = at("image.tar");
        let mut pack = Command::new("tar");
        pack.arg("-cf").arg(&tar).arg("-C").arg(folder.path()).args(["bin", "tmp", "etc"]);
        assert!(pack.status().unwrap().success());
        self.docker(&["import", "--change", "ENV PATH=/bin", tar.to_str().unwrap(), IMAGE]);
    }

    /// The containers of a step that run, by name.
    pub(crate) fn containers(&self, server: &str, step: &str) -> Vec<String> {
        let (server, step) = (format!("label=io.flowline.server={server}"), format!("label=io.flowline.step={step}"));
        let filters = ["--filter", server.as_str(), "--filter", step.as_str()];
        self.names(&filters)
    }

    /// Every container of a server, running or not.
    pub(crate) fn all(&self, server: &str) -> Vec<String> {
        self.names(&["--all", "--filter", &format!("label=io.flowline.server={server}")])
    }

    fn names(&self, filters: &[&str]) -> Vec<String> {
        let arguments = [&["ps", "--format", "{{.Names}}"], filters].concat();
        self.docker(&arguments).lines().map(str::to_owned).collect()
    }
}

/// A daemon of the test's own beside the machine's, which can be stopped and started. It has a
/// bridge of its own and leaves the firewall alone. Docker takes `docker0`, which is the other
/// daemon's, away if it starts without a bridge, or again with `--default-address-pool`.
pub(crate) struct OwnDaemon {
    folder: tempfile::TempDir,
    running: Option<Child>,
}

impl OwnDaemon {
    /// None where it cannot be: only root starts one.
    pub(crate) fn start() -> Option<Self> {
        let mut daemon = Self { folder: tempfile::tempdir().unwrap(), running: None };
        let id = Command::new("id").arg("-u").output().unwrap();
        if id.stdout.trim_ascii() != b"0" {
            return None;
        }
        broom::after_daemon(daemon.folder.path(), &Self::bridge());
        daemon.run();
        daemon.daemon().import();
        Some(daemon)
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn daemon(&self) -> Daemon {
        Daemon { host: Some(format!("unix://{}", self.at("docker.sock"))) }
    }

    /// The name of its bridge.
    fn bridge() -> String {
        format!("flow{}", std::process::id() % 10_000_000)
    }

    fn make_bridge() {
        let (bridge, address) = (Self::bridge(), format!("10.214.{}.1/24", std::process::id() % 256));
        let ip =
            |arguments: &[&str]| Command::new("ip").args(arguments).output().is_ok_and(|done| done.status.success());
        // It stays while the daemon is away.
        if ip(&["link", "add", &bridge, "type", "bridge"]) {
            assert!(ip(&["addr", "add", &address, "dev", &bridge]) && ip(&["link", "set", &bridge, "up"]));
        }
    }

    pub(crate) fn run(&mut self) {
        Self::make_bridge();
        for _ in 0..600 {
            if self.daemon().succeeds(&["version"]) {
                return;
            }
            // It gives up by itself where the machine is too busy for its own time limits.
            let has_ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
            if self.running.as_mut().is_none_or(has_ended) {
                self.running = Some(self.spawn());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("dockerd does not start: {}", fs::read_to_string(self.at("log")).unwrap_or_default());
    }

    fn spawn(&self) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.at("log")).unwrap();
        let number = std::process::id();
        let namespace = format!("flowline-test-{number}");
        Command::new("dockerd")
            .args(["--host", &format!("unix://{}", self.at("docker.sock")), "--data-root", &self.at("data")])
            .args(["--exec-root", &self.at("exec"), "--pidfile", &self.at("pid")])
            .args(["--containerd-namespace", &namespace])
            .args(["--containerd-plugins-namespace", &format!("{namespace}-plugins")])
            .args(["--bridge", &Self::bridge(), "--iptables=false"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed")
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

impl Drop for OwnDaemon {
    fn drop(&mut self) {
        self.stop();
        let _ = Command::new("ip").args(["link", "delete", &Self::bridge()]).output();
    }
}
