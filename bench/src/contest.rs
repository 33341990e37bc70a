//! Engine and floor side by side: the same load into either, the same sink behind both.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::{
    form,
    load::Sent,
    process::{self, Installation, Process},
    sink::Report,
};

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// The real `flowline`.
    Engine,
    /// The same work with no engine.
    Floor,
}

/// A system at work, and the sink behind it.
pub(crate) struct Stage {
    /// The system.
    pub(crate) system: Process,
    /// Where its messages end.
    pub(crate) sink: Process,
    path: &'static str,
    _folder: Folder,
}

/// Keeps the folder until the processes have ended.
enum Folder {
    Engine { _installation: Installation },
    Floor { _folder: TempDir },
}

impl Stage {
    /// Starts system and sink.
    pub(crate) async fn set(contestant: Contestant, binary: &Path) -> Result<Self> {
        let sink = Process::of_this(&["sink"])?;
        let url = format!("http://{}/contacts", sink.address);
        let (system, folder) = match contestant {
            Contestant::Engine => {
                let installation = Installation::new(binary, [("story".to_owned(), form::flow("story", &url))])?;
                (installation.up().await?, Folder::Engine { _installation: installation })
            }
            Contestant::Floor => {
                let folder = tempfile::tempdir()?;
                let file = folder.path().join("bodies").display().to_string();
                (Process::of_this(&["floor", &file, &url])?, Folder::Floor { _folder: folder })
            }
        };
        Ok(Self { system, sink, path: "/hook/story", _folder: folder })
    }

    /// Sends forms from another process.
    pub(crate) async fn load(&self, first: u64, messages: u64, rate: Option<u64>) -> Result<Sent> {
        let mut arguments = vec![
            "load".to_owned(),
            format!("--address={}", self.system.address),
            format!("--path={}", self.path),
            format!("--first={first}"),
            format!("--messages={messages}"),
        ];
        arguments.extend(rate.map(|rate| format!("--rate={rate}")));
        process::run(arguments).await
    }

    /// Waits until so many contacts have arrived, each once and right.
    pub(crate) async fn all_arrived(&self, messages: u64) -> Result<Report> {
        let begin = Instant::now();
        loop {
            let report: Report = self.sink.ask("/report").await?;
            ensure!(report.wrong == 0, "the sink saw something wrong: {report:?}");
            if report.distinct >= messages {
                ensure!(report.repeated == 0, "nothing failed, and yet messages came twice: {report:?}");
                return Ok(report);
            }
            ensure!(begin.elapsed() < Duration::from_secs(300), "of {messages} messages this arrived: {report:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
