//! What containers say: their output becomes the step's log, whatever it is and however much.

use std::time::Duration;

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures::StreamExt;

use super::Docker;
use crate::runtime::lines::{Lines, LogTarget};

/// How long to wait before the output is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

impl Docker {
    /// Follows the output of a container until it has ended or nobody asks for it any more.
    pub(super) async fn follow(&self, worker: &str, target: LogTarget) {
        let (mut out, mut err) = (Lines::new(target.clone()), Lines::new(target));
        let mut tail = "all";
        while self.known(|known| known.contains(worker)) {
            match self.read(worker, &mut out, &mut err, tail).await {
                Read::Ended => break,
                // What was written while the daemon was away is in the container's own log.
                Read::Broken => tail = "0",
                Read::Unreached => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
        out.finish();
        err.finish();
    }

    async fn read(&self, worker: &str, out: &mut Lines, err: &mut Lines, tail: &str) -> Read {
        let Ok(api) = self.client.api().await else { return Read::Unreached };
        let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).tail(tail).build();
        let mut output = Box::pin(api.logs(worker, Some(options)));
        let mut end = Read::Unreached;
        loop {
            match output.next().await {
                None => return Read::Ended,
                Some(Err(_)) => return end,
                Some(Ok(LogOutput::StdErr { message })) => err.take(&message),
                Some(Ok(LogOutput::StdOut { message } | LogOutput::Console { message })) => out.take(&message),
                Some(Ok(LogOutput::StdIn { .. })) => {}
            }
            end = Read::Broken;
        }
    }
}

/// How reading ended.
enum Read {
    /// With the container.
    Ended,
    /// Under way.
    Broken,
    /// Before it began.
    Unreached,
}
