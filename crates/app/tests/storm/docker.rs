//! The Docker engine as a test sees it from outside: by its command line.

use std::process::Command;

use super::program::Installation;

/// What `docker` says; fails if it fails.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("docker is installed");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The address of this machine that containers reach.
pub(crate) fn own_address() -> String {
    let format = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
    docker(&["network", "inspect", "bridge", "--format", format])
}

/// The containers of one installation. When it is dropped those that are left are removed, and
/// the network.
pub(crate) struct Containers {
    label: String,
    network: String,
}

impl Containers {
    /// A name for the network of an installation.
    pub(crate) fn network() -> String {
        format!("flowline-test-{:08x}", rand::random::<u32>())
    }

    /// Those of an installation whose server has been started.
    pub(crate) fn of(installation: &Installation, network: &str) -> Self {
        let server = std::fs::read_to_string(installation.data().join("server")).expect("the id of the server");
        Self { label: format!("label=io.flowline.server={}", server.trim()), network: network.to_owned() }
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
        let more = ["--filter", self.label.as_str(), "--format", "{{.Names}}"];
        docker(&[arguments, more.as_slice()].concat()).lines().map(str::to_owned).collect()
    }

    /// Kills one; false if it has ended already.
    pub(crate) fn kill(name: &str) -> bool {
        let killed = Command::new("docker").args(["kill", "-s", "KILL", name]).output();
        killed.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let quietly = |arguments: &[&str]| drop(Command::new("docker").args(arguments).output());
        for name in self.all() {
            quietly(&["rm", "--force", "--volumes", &name]);
        }
        quietly(&["network", "rm", &self.network]);
    }
}
