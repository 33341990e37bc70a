//! Watching the flow documents: what they say is what runs, without a restart.
//!
//! A document that does not check never replaces one that runs, and a file that cannot be seen
//! for a moment (an editor replaces it, a folder is not mounted) retires nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flowline_engine::{ApplyError, Engine};
use flowline_model::{FlowName, Problem, document};
use tokio_util::sync::CancellationToken;

use crate::{cli::LogFormat, files, render};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the flows that run equal to the documents on the disk.
pub(crate) struct Watch {
    engine: Engine,
    /// Files and folders, as they were named.
    paths: Vec<PathBuf>,
    seen: BTreeMap<PathBuf, Seen>,
    /// Folders that could not be read when last looked at.
    unreadable: BTreeSet<PathBuf>,
    format: LogFormat,
}

/// A document as it was when last looked at.
struct Seen {
    stamp: Stamp,
    text: String,
    /// The flow it is, or says to be.
    flow: Option<FlowName>,
    standing: Standing,
    /// It was not there when last looked for.
    missing: bool,
}

/// When a file changed, and how long it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

/// What became of a document.
#[derive(Clone, PartialEq, Eq)]
enum Standing {
    /// It runs.
    Runs,
    /// It does not check: only another text can help.
    Broken,
    /// It cannot run now, for this reason, but may later.
    Waits(String),
}

impl Watch {
    /// Watches files and folders; nothing is read yet.
    pub(crate) fn new(engine: Engine, paths: Vec<PathBuf>, format: LogFormat) -> Self {
        Self { engine, paths, seen: BTreeMap::new(), unreadable: BTreeSet::new(), format }
    }

    /// Looks at every document for the first time; returns how many run and how many do not.
    pub(crate) async fn begin(&mut self) -> (usize, usize) {
        self.look().await;
        self.retire_strangers().await;
        let running = self.seen.values().filter(|seen| seen.standing == Standing::Runs).count();
        (running, self.seen.len() - running)
    }

    /// Looks again and again until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => self.look().await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Applies what changed and retires what is gone.
    async fn look(&mut self) {
        let found = tokio::task::block_in_place(|| self.find());
        for path in &found {
            self.look_at(path).await;
        }
        let missing = self.seen.keys().filter(|path| !found.contains(*path) && !self.is_hidden(path));
        for path in missing.cloned().collect::<Vec<_>>() {
            self.miss(&path).await;
        }
    }

    /// The documents that are there.
    fn find(&mut self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for path in self.paths.clone() {
            if fs::metadata(&path).is_ok_and(|what| what.is_file()) {
                found.insert(path);
                continue;
            }
            match files::in_folder(&path) {
                Ok(files) => {
                    self.unreadable.remove(&path);
                    found.extend(files);
                }
                // A file that was named alone and is not there is missing, not unreadable.
                Err(_) if self.seen.contains_key(&path) => {}
                Err(error) => {
                    if self.unreadable.insert(path.clone()) {
                        tracing::warn!(folder = %path.display(), "the folder cannot be read, its flows go on: {error}");
                    }
                }
            }
        }
        found
    }

    /// Whether a file lies in a folder that cannot be read.
    fn is_hidden(&self, path: &Path) -> bool {
        path.parent().is_some_and(|folder| self.unreadable.contains(folder))
    }

    async fn look_at(&mut self, path: &Path) {
        let Ok(stamp) = Stamp::of(path) else { return };
        let before = self.seen.get_mut(path);
        if let Some(seen) = before {
            seen.missing = false;
            let waits = matches!(seen.standing, Standing::Waits(_));
            if seen.stamp == stamp && !waits && !stamp.is_fresh() {
                return;
            }
        }
        let text = match tokio::task::block_in_place(|| files::read(path)) {
            Ok(text) => text,
            Err(error) => {
                let seen = self.seen.get(path).map(|seen| (seen.text.clone(), seen.flow.clone()));
                let (text, flow) = seen.unwrap_or_default();
                return self.stand(path, stamp, text, flow, Standing::Waits(format!("it cannot be read: {error}")));
            }
        };
        let same = |seen: &Seen| seen.text == text && !matches!(seen.standing, Standing::Waits(_));
        if self.seen.get(path).is_some_and(same) {
            if let Some(seen) = self.seen.get_mut(path) {
                seen.stamp = stamp;
            }
            return;
        }
        self.apply(path, stamp, text).await;
    }

    /// Applies a text, or says why not.
    async fn apply(&mut self, path: &Path, stamp: Stamp, text: String) {
        let before = self.seen.get(path).and_then(|seen| seen.flow.clone());
        let claimed = claimed(&text);
        if let Some(other) = claimed.as_ref().and_then(|flow| self.holder(flow, path)) {
            let why = format!("the flow it names stands in {} already", other.display());
            return self.stand(path, stamp, text, before.or(claimed), Standing::Waits(why));
        }
        match self.engine.apply(&text).await {
            Ok(applied) => {
                if applied.changed {
                    tracing::info!(flow = %applied.flow, version = applied.version, "the flow runs");
                }
                let flow = applied.flow;
                self.stand(path, stamp, text, Some(flow.clone()), Standing::Runs);
                if let Some(before) = before.filter(|before| *before != flow) {
                    self.retire_unless_held(&before).await;
                }
            }
            Err(ApplyError::Problems(problems)) => {
                self.tell(path, &text, &problems);
                self.stand(path, stamp, text, before.or(claimed), Standing::Broken);
            }
            Err(error) => {
                let why = error.to_string();
                self.stand(path, stamp, text, before.or(claimed), Standing::Waits(why));
            }
        }
    }

    /// Notes how a document stands; tells why it does not run, once for each reason.
    fn stand(&mut self, path: &Path, stamp: Stamp, text: String, flow: Option<FlowName>, standing: Standing) {
        let news = self.seen.get(path).is_none_or(|seen| seen.standing != standing);
        if let Standing::Waits(why) = &standing
            && news
        {
            tracing::warn!(file = %path.display(), "the flow is not applied: {why}");
        }
        self.seen.insert(path.to_owned(), Seen { stamp, text, flow, standing, missing: false });
    }

    fn tell(&self, path: &Path, text: &str, problems: &[Problem]) {
        let count = render::count(problems.len(), "problem");
        tracing::warn!(file = %path.display(), "the flow is not applied, it has {count}; a version that ran before goes on");
        match self.format {
            LogFormat::Text => render::print(path, text, problems),
            LogFormat::Json => {
                for problem in problems {
                    let (line, column) = (problem.span.line, problem.span.column);
                    tracing::warn!(file = %path.display(), line, column, code = %problem.code, "{}", problem.message);
                }
            }
        }
    }

    /// The other file that a flow runs from.
    fn holder(&self, flow: &FlowName, except: &Path) -> Option<&PathBuf> {
        let holds = |seen: &Seen| seen.flow.as_ref() == Some(flow) && seen.standing == Standing::Runs;
        self.seen.iter().find(|(path, seen)| *path != except && holds(seen)).map(|(path, _)| path)
    }

    /// A file is not there: gone if it was not there the last time either.
    async fn miss(&mut self, path: &Path) {
        let Some(seen) = self.seen.get_mut(path) else { return };
        if !seen.missing {
            seen.missing = true;
            return;
        }
        let flow = seen.flow.take();
        self.seen.remove(path);
        if let Some(flow) = flow {
            self.retire_unless_held(&flow).await;
        }
    }

    async fn retire_unless_held(&self, flow: &FlowName) {
        if !self.seen.values().any(|seen| seen.flow.as_ref() == Some(flow)) {
            self.retire(flow).await;
        }
    }

    async fn retire(&self, flow: &FlowName) {
        match self.engine.retire(flow).await {
            Ok(()) => tracing::info!(%flow, "the flow takes no new input, its document is gone"),
            Err(error) => tracing::warn!(%flow, "the flow cannot be retired: {error}"),
        }
    }

    /// Retires flows that ran when the server stopped and whose documents are gone. With nothing
    /// to compare them to, or with a document that does not tell its name, they go on.
    async fn retire_strangers(&self) {
        let unsure =
            self.paths.is_empty() || !self.unreadable.is_empty() || self.seen.values().any(|seen| seen.flow.is_none());
        if unsure {
            return;
        }
        let known: BTreeSet<&FlowName> = self.seen.values().filter_map(|seen| seen.flow.as_ref()).collect();
        for status in self.engine.flows() {
            if status.active && !known.contains(&status.name) {
                self.retire(&status.name).await;
            }
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Self> {
        let what = fs::metadata(path)?;
        Ok(Self { modified: what.modified().ok(), length: what.len() })
    }

    /// Changed so lately that another change may bear the same time.
    fn is_fresh(self) -> bool {
        let age = self.modified.and_then(|modified| modified.elapsed().ok());
        age.is_none_or(|age| age < LOOK * 2)
    }
}

/// The name that a document gives its flow, whether or not it checks.
fn claimed(text: &str) -> Option<FlowName> {
    document::read(text).ok()?.get("name")?.value.as_str()?.parse().ok()
}
