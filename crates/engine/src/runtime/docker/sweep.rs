//! Sweeping: containers of this server that nobody tends are removed, whether an earlier process
//! left them or a call was lost on its way. None is ever leaked, and none of others is touched.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bollard::query_parameters::ListContainersOptionsBuilder;
use tokio_util::sync::CancellationToken;

use super::{Docker, spec::SERVER};
use crate::runtime::Trouble;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(60);
/// How often while the daemon is out of reach.
const SOON: Duration = Duration::from_secs(2);

/// How long the last sweep may take.
const LAST: Duration = Duration::from_secs(10);

/// Sweeps until it is stopped: what an earlier process left can admit itself nowhere any more.
pub(crate) async fn run(docker: Arc<Docker>, stop: CancellationToken) {
    loop {
        let wait = match docker.sweep().await {
            Ok(0) => EVERY,
            Ok(count) => {
                tracing::info!(count, "containers that nobody tended were removed");
                EVERY
            }
            Err(_) => SOON,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // What could not be removed just now cannot be at once either.
            () = docker.litter.notified() => tokio::time::sleep(SOON).await,
            () = stop.cancelled() => return,
        }
    }
}

/// Sweeps for the last time, when nobody tends any container any more.
pub(crate) async fn last(docker: &Docker) {
    // Who is away has nothing to be removed by; the next server with this folder sweeps again.
    let _ = tokio::time::timeout(LAST, docker.sweep()).await;
}

impl Docker {
    /// Removes the containers of this server that are not known; returns how many.
    pub(crate) async fn sweep(&self) -> Result<usize, Trouble> {
        let api = self.client.api().await?;
        let filters = HashMap::from([("label".to_owned(), vec![format!("{SERVER}={}", self.server)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = match api.list_containers(Some(options)).await {
            Ok(found) => found,
            Err(error) => return Err(self.client.failed("the containers", &error).await),
        };
        let names = found.into_iter().filter_map(|container| container.names?.into_iter().next());
        let names = names.map(|name| name.trim_start_matches('/').to_owned());
        // Asked after the list was made: a container is known from before it is made.
        let orphans: Vec<String> = names.filter(|name| !self.known(|known| known.contains(name))).collect();
        let mut failed = None;
        for orphan in &orphans {
            // One that cannot be removed does not keep the others.
            failed = self.remove(orphan).await.err().or(failed);
        }
        failed.map_or(Ok(orphans.len()), Err)
    }
}
