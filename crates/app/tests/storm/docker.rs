//! The Docker engine as a test sees it from outside: by its command line.

use std::process::Command;

use super::program::Installation;

/// What `docker` says; fails if it fails.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("docker is installed");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The network of one test. It is removed when it is dropped, and the containers on it with it.
pub(crate) struct Network {
    pub(crate) name: String,
    /// The address of this machine on it.
    pub(crate) address: String,
}

impl Network {
    pub(crate) fn new() -> Self {
        let name = format!("flowline-test-{:08x}", rand::random::<u32>());
        docker(&["network", "create", &name]);
        let format = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
        let address = docker(&["network", "inspect", &name, "--format", format]);
        Self { name, address }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let network = format!("network={}", self.name);
        for name in list(&["ps", "--all", "--filter", &network]) {
            quietly(&["rm", "--force", "--volumes", &name]);
        }
        quietly(&["network", "rm", &self.name]);
    }
}

fn quietly(arguments: &[&str]) {
    drop(Command::new("docker").args(arguments).output());
}

/// The names of containers.
fn list(arguments: &[&str]) -> Vec<String> {
    docker(&[arguments, ["--format", "{{.Names}}"].as_slice()].concat()).lines().map(str::to_owned).collect()
}

/// The containers of one installation.
pub(crate) struct Containers {
    label: String,
}

impl Containers {
    /// Those of an installation whose server has been started.
    pub(crate) fn of(installation: &Installation) -> Self {
        let server = std::fs::read_to_string(installation.data().join("server")).expect("the id of the server");
        Self { label: format!("label=io.flowline.server={}", server.trim()) }
    }

    /// The names of those that run.
    pub(crate) fn running(&self) -> Vec<String> {
        self.list(&["ps"])
    }

    /// The names of those that run for a step.
    pub(crate) fn of_step(&self, step: &str) -> Vec<String> {
        self.list(&["ps", "--filter", &format!("label=io.flowline.step={step}")])
    }

    /// The names of all, running or not.
    pub(crate) fn all(&self) -> Vec<String> {
        self.list(&["ps", "--all"])
    }

    fn list(&self, arguments: &[&str]) -> Vec<String> {
        list(&[arguments, ["--filter", self.label.as_str()].as_slice()].concat())
    }

    /// Kills one; false if it has ended already.
    pub(crate) fn kill(name: &str) -> bool {
        let killed = Command::new("docker").args(["kill", "-s", "KILL", name]).output();
        killed.is_ok_and(|output| output.status.success())
    }
}
