//! Sweeps after a test, however it ended: a process of its own waits for the test's process to be
//! gone, and removes what that may have left.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::daemon::Daemon;

/// Removes the containers of a server and its network.
pub(crate) fn after_server(daemon: &Daemon, server: &str, network: &str) {
    let script = r#"
        docker() { command docker ${HOST:+--host "$HOST"} "$@"; }
        docker ps --all --quiet --filter "label=io.flowline.server=$1" | while read -r id; do docker rm --force "$id"; done
        docker network rm "$2""#;
    sweep(script, daemon.host.as_deref().unwrap_or_default(), &[server, network]);
}

/// Ends a daemon of the test's own, and removes its folder and its bridge.
pub(crate) fn after_daemon(folder: &Path, bridge: &str) {
    let script = r#"
        [ -s "$1/pid" ] && kill "$(cat "$1/pid")" && while [ -s "$1/pid" ]; do sleep 0.2; done
        ip link delete "$2"
        # Deepest first.
        grep -F " $1/" /proc/mounts | cut -d' ' -f2 | sort -r | while read -r mount; do umount "$mount"; done
        rm -rf "$1""#;
    sweep(script, "", &[folder.to_str().unwrap(), bridge]);
}

fn sweep(script: &str, host: &str, arguments: &[&str]) {
    use std::os::unix::process::CommandExt;
    // Nothing is ever written to its input: that ends with this process.
    let waiting = Command::new("sh")
        .args(["-c", &format!("cat > /dev/null; {script}"), "broom"])
        .args(arguments)
        .env("HOST", host)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    std::mem::forget(waiting.expect("a shell"));
}
