//! Damage on the disk: noticed before anything is lost, and repaired as far as it can be.

use std::{fs, path::Path};

use flowline_queue::{EmbeddedQueue, QueueError, embedded::doctor};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::steered::{copy_store, declare, numbers_in, open, publish};

/// Fills a store and leaves its files in `to` as a killed process leaves them.
async fn killed_store(messages: u64, per_commit: u64, to: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    declare(&store, &["a", "b"]).await;
    for start in (0..messages).step_by(usize::try_from(per_commit).unwrap()) {
        publish(&store, start..start + per_commit).await;
    }
    copy_store(folder.path(), to);
    store.close().await;
}

fn flip(file: &Path, offset: usize, bits: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= bits;
    fs::write(file, bytes).unwrap();
}

fn refusal(folder: &Path) -> String {
    match open(folder) {
        Err(QueueError::Unusable(text)) => text,
        other => panic!("it must be refused, not {other:?}"),
    }
}

async fn close(store: EmbeddedQueue) {
    store.close().await;
}

#[tokio::test]
async fn one_damaged_byte_among_twenty_thousand_messages_is_refused_and_set_right() {
    let folder = tempfile::tempdir().unwrap();
    killed_store(20_000, 500, folder.path()).await;
    let wal = folder.path().join("queue.db-wal");
    let length = fs::metadata(&wal).unwrap().len();
    flip(&wal, usize::try_from(length / 3).unwrap(), 0x10);
    let before = fs::read(&wal).unwrap();

    let text = refusal(folder.path());
    assert!(text.contains("queue.db-wal is damaged at byte"), "{text}");
    assert!(text.contains("flowline doctor"), "{text}");
    assert!(fs::read(&wal).unwrap() == before, "nothing was changed");

    let report = doctor(folder.path(), false).unwrap();
    assert!(!report.is_healthy() && report.repair.is_none());
    assert!(fs::read(&wal).unwrap() == before, "looking changes nothing");

    let repair = doctor(folder.path(), true).unwrap().repair.expect("it was repaired");
    assert_eq!(repair.pages_corrected + repair.pages_lost, 1);
    assert!(fs::read(repair.kept_aside.join("queue.db-wal")).unwrap() == before);
    assert!(doctor(folder.path(), false).unwrap().is_healthy());
    let store = open(folder.path()).unwrap();
    let found = numbers_in(&store).await;
    // At most the messages of the damaged page are lost, and the report says so.
    assert!(found.len() as u64 + repair.messages_lost >= 20_000 && repair.messages_lost <= 40, "{repair:?}");
    close(store).await;
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_the_log_never_loses_a_message() {
    let original = tempfile::tempdir().unwrap();
    killed_store(1_000, 50, original.path()).await;
    let length = usize::try_from(fs::metadata(original.path().join("queue.db-wal")).unwrap().len()).unwrap();
    let frame = 4_096 + 24;
    let mut random = StdRng::seed_from_u64(1);
    let anywhere: Vec<usize> = (0..25).map(|_| random.random_range(0..length)).collect();
    let header = [0, 9, 13, 17, 22, 25, 31];
    let in_frame = [0, 3, 5, 7, 8, 12, 15, 16, 19, 20, 23, 24].map(|byte| 32 + frame * 40 + byte);
    let last = [1, 100, frame - 1].map(|back| length - back);
    let mut exact = 0;
    for offset in anywhere.into_iter().chain(header).chain(in_frame).chain(last) {
        let folder = tempfile::tempdir().unwrap();
        copy_store(original.path(), folder.path());
        flip(&folder.path().join("queue.db-wal"), offset, random.random_range(1..=255));
        match open(folder.path()) {
            // A field that means nothing for reading may be damaged without harm.
            Ok(store) => {
                assert_eq!(numbers_in(&store).await, (0..1_000).collect(), "at {offset}");
                close(store).await;
                exact += 1;
                continue;
            }
            Err(QueueError::Unusable(text)) => assert!(text.contains("flowline doctor"), "at {offset}: {text}"),
            Err(other) => panic!("at {offset}: {other}"),
        }
        let report = doctor(folder.path(), true).unwrap();
        let store = open(folder.path()).unwrap_or_else(|error| panic!("at {offset}: {error}, {report:?}"));
        let found = numbers_in(&store).await;
        let repair = report.repair.expect("it was repaired");
        // Which byte it was cannot always be told for certain: then its page is left out.
        assert!(found.len() == 1_000 || repair.pages_lost == 1, "at {offset}: {repair:?}");
        assert!(found.len() >= 1_000 - 40, "at {offset}: {} of 1000, {repair:?}", found.len());
        exact += u32::from(found.len() == 1_000);
        close(store).await;
    }
    assert!(exact >= 30, "most are set right for certain, not only {exact}");
}

#[tokio::test]
async fn larger_damage_costs_only_what_stood_there() {
    let original = tempfile::tempdir().unwrap();
    killed_store(2_000, 50, original.path()).await;
    let length = usize::try_from(fs::metadata(original.path().join("queue.db-wal")).unwrap().len()).unwrap();
    let mut random = StdRng::seed_from_u64(2);
    for bytes in [2, 512, 5_000, 40_000] {
        let folder = tempfile::tempdir().unwrap();
        copy_store(original.path(), folder.path());
        let wal = folder.path().join("queue.db-wal");
        let mut content = fs::read(&wal).unwrap();
        let start = random.random_range(32 + 24..length - bytes);
        content[start..start + bytes].fill_with(|| random.random());
        fs::write(&wal, content).unwrap();
        refusal(folder.path());
        let report = doctor(folder.path(), true).unwrap();
        let repair = report.repair.clone().expect("it was repaired");
        let store = open(folder.path()).unwrap();
        let found = numbers_in(&store).await;
        let lost = 2_000 - found.len();
        // A page holds about fifteen of these messages; those of a damaged page may be on an
        // older or a newer copy of it.
        let pages = bytes / 4_096 + 2;
        assert!(lost <= pages * 20, "{bytes} bytes cost {lost} messages: {report:?}");
        assert!(repair.pages_lost as usize <= pages, "{report:?}");
        assert!(repair.messages_lost as usize <= lost, "{report:?}");
        close(store).await;
    }
}

#[tokio::test]
async fn a_damaged_main_file_is_refused_or_repaired_but_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    declare(&store, &["a"]).await;
    for start in 0..20 {
        publish(&store, start * 100..start * 100 + 100).await;
    }
    close(store).await;
    let database = folder.path().join("queue.db");
    let mut content = fs::read(&database).unwrap();
    let page = content.len() / 4_096 / 2 * 4_096;
    content[page..page + 4_096].fill(0x5a);
    fs::write(&database, &content).unwrap();
    let report = doctor(folder.path(), true).unwrap();
    assert!(!report.is_healthy(), "{report:?}");
    let store = open(folder.path()).unwrap();
    let found = numbers_in(&store).await;
    assert!(found.len() >= 2_000 - 40, "{} are left: {report:?}", found.len());
    close(store).await;

    content[..100].fill(0);
    fs::write(&database, &content).unwrap();
    let text = refusal(folder.path());
    assert!(text.contains("queue.db") && text.contains("flowline doctor"), "{text}");
    assert!(fs::read(&database).unwrap() == content, "nothing was changed");
}

#[tokio::test]
async fn a_missing_or_older_main_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    declare(&store, &["a"]).await;
    publish(&store, 0..10).await;
    close(store).await;
    let database = folder.path().join("queue.db");
    let older = fs::read(&database).unwrap();
    let store = open(folder.path()).unwrap();
    publish(&store, 10..20).await;
    close(store).await;

    fs::write(&database, older).unwrap();
    let text = refusal(folder.path());
    assert!(text.contains("had been made durable"), "{text}");
    let report = doctor(folder.path(), true).unwrap();
    assert!(!report.is_healthy());
    let store = open(folder.path()).unwrap();
    assert_eq!(numbers_in(&store).await, (0..10).collect(), "the repair accepts what is there");
    close(store).await;

    fs::remove_file(&database).unwrap();
    let text = refusal(folder.path());
    assert!(text.contains("queue.db is missing"), "{text}");
    assert!(!database.exists(), "no empty store takes its place");
}
