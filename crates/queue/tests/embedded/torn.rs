//! Torn ends: what a crash or a power cut leaves of the last write is no damage.

use std::fs;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::steered::{copy_store, declare, numbers_in, open, publish};

/// A log with the place and the mark at the end of every commit.
struct Commits {
    folder: TempDir,
    ends: Vec<(usize, Vec<u8>)>,
}

impl Commits {
    /// Makes commits of one to thirty messages; the `n`-th publishes numbers from `n * 100`.
    async fn make(count: u64) -> Self {
        let live = tempfile::tempdir().unwrap();
        let store = open(live.path()).unwrap();
        declare(&store, &["a"]).await;
        let mut ends = Vec::new();
        for commit in 0..count {
            publish(&store, commit * 100..commit * 100 + 1 + commit % 30).await;
            let length = usize::try_from(fs::metadata(live.path().join("queue.db-wal")).unwrap().len()).unwrap();
            ends.push((length, fs::read(live.path().join("commit")).unwrap()));
        }
        let folder = tempfile::tempdir().unwrap();
        copy_store(live.path(), folder.path());
        store.close().await;
        Self { folder, ends }
    }

    /// The files as they were after a commit, with another log.
    fn with_log(&self, commit: usize, log: &[u8]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy_store(self.folder.path(), folder.path());
        fs::write(folder.path().join("queue.db-wal"), log).unwrap();
        fs::write(folder.path().join("commit"), &self.ends[commit].1).unwrap();
        folder
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("queue.db-wal")).unwrap()
    }
}

fn numbers_up_to(commit: u64) -> std::collections::BTreeSet<u64> {
    (0..=commit).flat_map(|commit| commit * 100..commit * 100 + 1 + commit % 30).collect()
}

#[tokio::test]
async fn a_log_that_ends_anywhere_in_a_write_opens_with_every_commit_before() {
    let commits = Commits::make(25).await;
    let log = commits.log();
    let mut random = StdRng::seed_from_u64(3);
    for last in [0_usize, 7, 13, 23] {
        let (start, end) = (commits.ends[last].0, commits.ends[last + 1].0);
        let places = [start, start + 1, start + 23, start + 24, start + 4_120, end - 4_120, end - 1];
        for place in places.into_iter().chain((0..6).map(|_| random.random_range(start..end))) {
            let folder = commits.with_log(last, &log[..place]);
            let store = open(folder.path()).unwrap_or_else(|error| panic!("cut at {place}: {error}"));
            assert_eq!(numbers_in(&store).await, numbers_up_to(last as u64), "cut at {place}");
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_power_cut_may_leave_any_part_of_the_last_write() {
    let commits = Commits::make(25).await;
    let log = commits.log();
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..20 {
        let (start, end) = (commits.ends[22].0, commits.ends[23].0);
        let mut torn = log[..end].to_vec();
        for sector in (start..end).step_by(512) {
            if random.random_bool(0.5) {
                torn[sector..(sector + 512).min(end)].fill(0);
            }
        }
        let folder = commits.with_log(22, &torn);
        let store = open(folder.path()).unwrap();
        let found = numbers_in(&store).await;
        assert!(found == numbers_up_to(22) || found == numbers_up_to(23));
        // The folder works on, and what was torn is no damage at the next start.
        publish(&store, [9_999]).await;
        let next = tempfile::tempdir().unwrap();
        copy_store(folder.path(), next.path());
        let again = open(next.path()).unwrap();
        assert!(numbers_in(&again).await.contains(&9_999));
        again.close().await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_commit_that_was_durable_and_is_gone_is_refused() {
    let commits = Commits::make(25).await;
    let log = commits.log();
    for (last, marked) in [(22, 23), (5, 24)] {
        let folder = commits.with_log(marked, &log[..commits.ends[last].0]);
        let text = open(folder.path()).expect_err("a commit is gone").to_string();
        assert!(text.contains("had been made durable"), "{text}");
    }
}

#[tokio::test]
async fn damage_before_a_durable_commit_is_refused_even_without_a_mark() {
    let commits = Commits::make(25).await;
    let mut log = commits.log();
    log[commits.ends[10].0 + 500] ^= 1;
    let folder = commits.with_log(24, &log);
    fs::remove_file(folder.path().join("commit")).unwrap();
    let text = open(folder.path()).expect_err("it is damaged").to_string();
    assert!(text.contains("is damaged at byte"), "{text}");
}
