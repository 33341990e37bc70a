//! The janitor: removes what has outlived its retention, a little at a time.

use std::{sync::Arc, time::Duration};

use flowline_model::{ExecutionId, Timestamp};
use flowline_queue::Retention;
use tokio_util::sync::CancellationToken;

use crate::{EngineError, ExecutionStatus, Shared};

/// How often it looks.
const LOOK: Duration = Duration::from_secs(10);
/// How often attachments are looked through.
const ATTACHMENTS: u32 = 60;
/// Executions removed at once.
const BATCH: u32 = 1_000;
/// Folders of attachments looked at in one round.
const FOLDERS: usize = 10_000;
/// A pause between batches, so that messages come first.
const PAUSE: Duration = Duration::from_millis(20);

/// Removes until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut round = 0u32;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
        round = round.wrapping_add(1);
        let tidied = tokio::select! {
            tidied = tidy(&shared, round.is_multiple_of(ATTACHMENTS)) => tidied,
            () = stop.cancelled() => return,
        };
        if let Err(error) = tidied {
            tracing::warn!(%error, "what has outlived its retention could not be removed; trying again");
        }
    }
}

async fn tidy(shared: &Shared, with_attachments: bool) -> Result<(), EngineError> {
    let keep = shared.settings.retention;
    let age = i64::try_from(keep.age.0.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp::from_millis(shared.now().as_millis().saturating_sub(age));
    let recorded = shared.store.recorded().await?;
    let retention = Retention { before, bytes: keep.bytes.0, recorded };
    while shared.history.forget(retention).await? > 0 {
        tokio::time::sleep(PAUSE).await;
    }
    while shared.store.forget(before, BATCH).await? > 0 {
        tokio::time::sleep(PAUSE).await;
    }
    if with_attachments {
        remove_attachments(shared, before).await?;
    }
    Ok(())
}

/// Removes the attachments of executions that are over and old, or that never began.
async fn remove_attachments(shared: &Shared, before: Timestamp) -> Result<(), EngineError> {
    let unreadable = |error: std::io::Error| EngineError::Folder(error.to_string());
    for execution in shared.attachments.executions(FOLDERS).await.map_err(unreadable)? {
        if is_over(shared, execution, before).await? {
            shared.attachments.remove(execution).await.map_err(unreadable)?;
        }
    }
    Ok(())
}

async fn is_over(shared: &Shared, execution: ExecutionId, before: Timestamp) -> Result<bool, EngineError> {
    match shared.store.execution(execution).await? {
        Some(known) => Ok(known.status == ExecutionStatus::Done && known.ended_at.is_some_and(|end| end < before)),
        // Not known: either forgotten, or its request is still being received.
        None => Ok(shared.attachments.age(execution).await.is_some_and(|age| age > shared.settings.retention.age.0)),
    }
}
