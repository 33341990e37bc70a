//! The Docker daemon of the tests, by its command line: what is seen and done from outside.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Once,
    time::Duration,
};

/// The image of the tests: nothing but a shell.
pub(crate) const IMAGE: &str = "flowline-test-shell:1";

/// A daemon, by its address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Daemon {
    pub(crate) host: Option<String>,
}

impl Daemon {
    /// The machine's own, with the image of the tests.
    pub(crate) fn of_the_machine() -> Self {
        static IMPORTED: Once = Once::new();
        let daemon = Self::default();
        IMPORTED.call_once(|| daemon.import());
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
        self.command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        self.host.iter().for_each(|host| drop(command.args(["--host", host])));
        command.args(arguments);
        command
    }

    pub(crate) fn import(&self) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bin", "tmp", "etc"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // Docker gives a tmpfs the mode of the folder below it.
        fs::set_permissions(folder.path().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.expect("busybox-static is installed"), folder.path().join("bin/busybox")).unwrap();
        for name in ["sh", "nc", "awk", "sleep", "mkfifo", "id", "touch", "cat", "head", "kill"] {
            std::os::unix::fs::symlink("busybox", folder.path().join("bin").join(name)).unwrap();
        }
        let tar = folder.path().join("image.tar");
        let made =
            Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(folder.path()).args(["bin", "tmp", "etc"]).status();
        assert!(made.unwrap().success());
        self.docker(&["import", "--change", "ENV PATH=/bin", tar.to_str().unwrap(), IMAGE]);
    }

    /// The containers of a step, by name.
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

/// A daemon of the test's own, which can be stopped and started.
pub(crate) struct OwnDaemon {
    folder: tempfile::TempDir,
    running: Option<Child>,
}

impl OwnDaemon {
    pub(crate) fn start() -> Self {
        let mut daemon = Self { folder: tempfile::tempdir().unwrap(), running: None };
        daemon.run();
        daemon.daemon().import();
        daemon
    }

    pub(crate) fn daemon(&self) -> Daemon {
        Daemon { host: Some(format!("unix://{}", self.folder.path().join("docker.sock").display())) }
    }

    pub(crate) fn run(&mut self) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let log = fs::File::options().create(true).append(true).open(at("log")).unwrap();
        let child = Command::new("dockerd")
            .args(["--host", &format!("unix://{}", at("docker.sock")), "--data-root", &at("data")])
            .args(["--exec-root", &at("exec"), "--pidfile", &at("pid"), "--bridge", "none"])
            .args(["--default-address-pool", "base=10.213.0.0/16,size=24"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.running = Some(child.expect("dockerd is installed"));
        for _ in 0..300 {
            if self.daemon().succeeds(&["version"]) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("dockerd does not start: {}", fs::read_to_string(at("log")).unwrap_or_default());
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
    }
}
