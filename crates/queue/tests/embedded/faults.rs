//! A full disk, a read-only folder, a second process, other versions.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use flowline_model::{Settlement, Verdict};
use flowline_queue::{Publication, Queue, QueueError};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::steered::{declare, lease_all, message, numbers_in, open, publish};

/// Set in a child that has a mount table of its own.
const INSIDE: &str = "FLOWLINE_TEST_OWN_MOUNTS";

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// None if the test has been run by a child that may mount.
    fn mount(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if mounted {
            return Some(Self(folder));
        }
        assert!(
            std::env::var_os(INSIDE).is_none(),
            "no file system can be mounted, not even in a namespace of its own"
        );
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount"])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact"])
            .env(INSIDE, "1")
            .status()
            .expect("`unshare` is there: without root it is what gives the test a small file system");
        assert!(status.success(), "the test failed in a namespace of its own");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn make_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.path()).status());
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("faults::a_full_disk_refuses_and_loses_nothing_and_goes_on_when_there_is_room")
    else {
        return;
    };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let folder = disk.path().join("queue");
    let store = open(&folder).unwrap();
    declare(&store, &["a"]).await;
    let (mut accepted, mut refused) = (0, 0);
    while refused < 5 {
        let messages = (accepted..accepted + 50).map(message).collect();
        match store.publish(Publication { messages, ..Publication::default() }).await {
            Ok(_) => accepted += 50,
            Err(QueueError::Disk(_)) => refused += 1,
            Err(other) => panic!("it should say that the disk is full: {other}"),
        }
    }
    assert!(accepted > 0);
    let leases = lease_all(&store).await;
    assert_eq!(leases.len() as u64, accepted, "what was accepted is there, what was refused is not");
    let done = || Settlement { verdict: Verdict::Done, emits: Vec::new(), state: Vec::new(), events: Vec::new() };
    let mut settled = 0;
    for lease in &leases[..50] {
        match store.settle(lease, done()).await {
            Ok(()) => settled += 1,
            Err(error) => assert!(matches!(error, QueueError::Disk(_)), "{error}"),
        }
    }
    fs::remove_file(&ballast).unwrap();
    for lease in &leases[..50] {
        match store.settle(lease, done()).await {
            Ok(()) => settled += 1,
            Err(error) => assert!(matches!(error, QueueError::LeaseEnded(_)), "{error}"),
        }
    }
    assert_eq!(settled, 50, "a lease outlives a settlement that failed");
    publish(&store, accepted..accepted + 50).await;
    // What failed commits left in the log is not taken for damage.
    let copy = tempfile::tempdir().unwrap();
    crate::steered::copy_store(&folder, copy.path());
    let killed = open(copy.path()).unwrap();
    assert_eq!(numbers_in(&killed).await, (50..accepted + 50).collect());
    killed.close().await;
    store.close().await;
    let store = open(&folder).unwrap();
    assert_eq!(numbers_in(&store).await, (50..accepted + 50).collect());
    store.close().await;
}

#[tokio::test]
async fn a_read_only_folder_is_a_clear_error() {
    let Some(disk) = SmallDisk::mount("faults::a_read_only_folder_is_a_clear_error") else { return };
    let folder = disk.path().join("queue");
    let store = open(&folder).unwrap();
    declare(&store, &["a"]).await;
    publish(&store, [1]).await;
    store.close().await;
    drop(store);
    disk.make_read_only();
    match open(&folder) {
        Err(QueueError::Disk(text)) => assert!(text.contains(folder.to_str().unwrap()), "{text}"),
        other => panic!("it cannot be written: {other:?}"),
    }
}

#[tokio::test]
async fn a_second_user_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    match open(folder.path()) {
        Err(QueueError::InUse(text)) => {
            assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
            assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        }
        other => panic!("it is in use: {other:?}"),
    }
    let doctor = flowline_queue::embedded::doctor(folder.path(), true);
    assert!(matches!(doctor, Err(QueueError::InUse(_))), "{doctor:?}");
    store.close().await;
    open(folder.path()).expect("it is free again").close().await;
}

#[tokio::test]
async fn what_is_asked_of_a_closed_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    declare(&store, &["a"]).await;
    store.close().await;
    store.close().await;
    let publication = Publication { messages: vec![message(1)], ..Publication::default() };
    assert_eq!(store.publish(publication).await, Err(QueueError::Closed));
    assert_eq!(store.state(&crate::steered::name("a"), "k").await, Err(QueueError::Closed));
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap().close().await;
    let database = folder.path().join("queue.db");
    Connection::open(&database).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&database).unwrap();
    let text = open(folder.path()).expect_err("it is newer").to_string();
    assert!(text.contains("format 99") && text.contains("newer version"), "{text}");
    assert!(fs::read(&database).unwrap() == before, "nothing was changed");

    let folder = tempfile::tempdir().unwrap();
    let foreign = Connection::open(folder.path().join("queue.db")).unwrap();
    foreign.execute_batch("CREATE TABLE contacts(name TEXT)").unwrap();
    drop(foreign);
    let text = open(folder.path()).expect_err("it is another program's").to_string();
    assert!(text.contains("not a Flowline queue store"), "{text}");
}
