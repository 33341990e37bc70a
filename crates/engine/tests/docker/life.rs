//! Containers that live as they should: limits in force, taken over, replaced, removed.

use flowline_sdk::prelude::*;

use super::{
    daemon::{Daemon, IMAGE, OwnDaemon},
    place::{Place, does, flow},
    step_log::StepLog,
};

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_through_containers_that_get_no_more_than_they_need() {
    let place = Place::new().await;
    place.bench.apply(&does("look", ", workers: 2, container: { memory: 48MiB, cpus: 0.5, pids: 24 }")).await;
    place.until(|place| place.running("work") == 2, "two workers").await;
    place.publish(20).await;
    place.until_seen(20).await;
    let names = place.containers("work");
    assert_eq!(names.len(), 2);
    let inspect = |path: &str| place.daemon.docker(&["inspect", "-f", &format!("{{{{{path}}}}}"), &names[0]]);
    assert_eq!(inspect(".HostConfig.Memory"), (48 << 20).to_string());
    assert_eq!(inspect(".HostConfig.MemorySwap"), (48 << 20).to_string());
    assert_eq!(inspect(".HostConfig.NanoCpus"), "500000000");
    assert_eq!(inspect(".HostConfig.ReadonlyRootfs"), "true");
    assert_eq!(inspect(".HostConfig.CapDrop"), "[ALL]");
    assert_eq!(inspect(".HostConfig.SecurityOpt"), "[no-new-privileges]");
    assert_eq!(inspect(".HostConfig.RestartPolicy.Name"), "no");
    let network = place.daemon.docker(&["network", "inspect", "-f", "{{.Id}}", &place.network]);
    assert_eq!(inspect(".HostConfig.NetworkMode"), network);
    assert_eq!(inspect("len .NetworkSettings.Ports"), "0");
    // In force: not root, nothing writable but /tmp, no capability, no more than so many processes.
    let inside = |script: &str| place.daemon.docker(&["exec", &names[0], "sh", "-c", script]);
    assert_eq!(inside("cat /tmp/seen"), "65534\nscratch");
    let status = inside("cat /proc/1/status");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("CapBnd:\t0000000000000000"), "{status}");
    let forks = "for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 3 & done";
    assert!(!place.daemon.succeeds(&["exec", &names[0], "sh", "-c", forks]), "more processes than allowed");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_containers_lose_nothing() {
    let place = Place::new().await;
    place.bench.apply(&does("echo", ", workers: 2, retry: { first: 10ms }")).await;
    for round in 0..4 {
        place.publish(100).await;
        place.until_seen(round * 100 + 5).await;
        for name in place.containers("work") {
            place.daemon.succeeds(&["kill", "-s", "KILL", &name]);
        }
    }
    place.until_seen(400).await;
    place.bench.until_idle().await;
    assert_eq!(place.bench.bodies().len(), 400);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containers_say_is_in_the_log_of_their_step() {
    let log = StepLog::listen();
    let place = Place::new().await;
    place.bench.apply(&does("crash", "")).await;
    for line in ["work: worker up, does crash", "work: cannot go on"] {
        place.until(|_| log.has(line), &format!("{line}; there are {:?}", log.lines())).await;
    }
    place.end().await;
}

/// A component may have subscribed to something when its step began: it is asked to undo that when the step goes for
/// good, and not when the server only ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_goes_for_good_runs_its_shutdown_hook() {
    let log = StepLog::listen();
    let place = Place::new().await;
    place.bench.apply(&does("undo", "")).await;
    place.publish(3).await;
    place.until_seen(3).await;
    place.bench.apply(&does("undo", ", container: { memory: 48MiB }")).await;
    place.publish(3).await;
    place.until_seen(6).await;
    assert!(!log.has("work: undone"), "another version goes on with what was begun");
    let name = place.bench.engine.flows()[0].name.clone();
    place.bench.engine.retire(&name).await.unwrap();
    place.until(|_| log.has("work: undone"), "the hook").await;
    place.until(|place| place.containers("work").is_empty(), "no container").await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_undoes_nothing() {
    let log = StepLog::listen();
    let place = Place::new().await;
    place.bench.apply(&does("undo", "")).await;
    place.publish(3).await;
    place.until_seen(3).await;
    place.end().await;
    assert!(!log.has("work: undone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_end_when_asked_is_killed() {
    let place = Place::new().await;
    place.bench.apply(&does("stubborn", "")).await;
    place.publish(3).await;
    place.until_seen(3).await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_an_earlier_process_are_removed_and_those_of_others_stay() {
    let other = format!("{:032x}", rand::random::<u128>());
    let daemon = Daemon::of_the_machine();
    super::broom::after_server(&daemon, &other, "none-to-remove");
    let left = |server: &str| {
        for server in [server, other.as_str()] {
            let label = format!("io.flowline.server={server}");
            daemon.docker(&["run", "-d", "--network", "none", "--label", &label, IMAGE, "sleep", "1000"]);
        }
        assert_eq!(daemon.all(server).len(), 1);
    };
    let place = Place::on(daemon.clone(), left).await;
    place.until(|place| place.daemon.all(&place.server).is_empty(), "the earlier container to go").await;
    assert_eq!(daemon.all(&other).len(), 1);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_one_step_and_leaves_its_neighbours_alone() {
    let place = Place::new().await;
    let two = |says: &str| {
        format!(
            "{}  more: {{ use: shell.work, after: work, with: {{ fields: {{ does: echo }} }} }}\n  \
             end: {{ use: test.target, after: more }}\n",
            flow(&format!("use: shell.work, with: {{ fields: {{ does: slow, says: {says} }} }}"))
        )
    };
    place.bench.apply(&two("old")).await;
    place.until(|place| place.running("work") == 1 && place.running("more") == 1, "workers").await;
    let (old, neighbour) = (place.containers("work"), place.containers("more"));
    place.publish(50).await;
    place.until_seen(10).await;
    place.bench.apply(&two("new")).await;
    place.publish(50).await;
    place.until(|place| place.bench.bodies().contains(&json!("new")), "the new version").await;
    place.until(|place| !place.containers("work").contains(&old[0]), "the old container to go").await;
    place.until_seen(200).await;
    place.bench.until_idle().await;
    assert_eq!(place.bench.bodies().len(), 200);
    assert_eq!(place.containers("more"), neighbour);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_may_go_and_come_back() {
    let Some(mut own) = OwnDaemon::start() else {
        eprintln!("skipped: only root can start a Docker daemon");
        return;
    };
    let place = Place::on(own.daemon(), |_| {}).await;
    place.bench.apply(&does("slow", ", retry: { first: 10ms }")).await;
    place.publish(30).await;
    place.until_seen(5).await;
    own.stop();
    place.until(|place| place.running("work") == 0, "no worker").await;
    place.publish(10).await;
    let away = |place: &Place| place.trouble("work").is_some_and(|told| told.message.contains("out of reach"));
    place.until(away, "that the daemon is away").await;
    own.run();
    place.until_seen(40).await;
    place.bench.until_idle().await;
    assert_eq!(place.bench.bodies().len(), 40);
    place.end().await;
}
