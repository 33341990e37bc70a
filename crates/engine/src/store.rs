//! The store: flows and their versions, what is paused, and the index of executions.
//!
//! Messages never go through it: it may be late, and it is rebuilt from events, never the other
//! way round.

use std::{path::Path, str::FromStr, time::Duration};

use flowline_model::{ExecutionId, Fault, FlowName, StepId, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::{
    QueryBuilder, Row, Sqlite, SqlitePool,
    query_builder::Separated,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use crate::EngineError;

/// How an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionStatus {
    /// Messages of it wait or are being worked on.
    Running,
    /// All of it is processed.
    Done,
    /// Nothing of it waits any more, and some of it lies in the dead letters.
    Failed,
}

impl FromStr for ExecutionStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "running" => Ok(Self::Running),
            "done" => Ok(Self::Done),
            "failed" => Ok(Self::Failed),
            other => Err(format!("`{other}` is not a status: use running, done or failed")),
        }
    }
}

/// An execution in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// Identifies it.
    pub id: ExecutionId,
    /// The flow.
    pub flow: FlowName,
    /// The version of the flow it began with.
    pub version: u32,
    /// How it stands.
    pub status: ExecutionStatus,
    /// When its trigger emitted.
    pub started_at: Timestamp,
    /// When the last of it was settled; none while it runs.
    pub ended_at: Option<Timestamp>,
    /// Messages that wait or are being worked on.
    pub waiting: u32,
    /// Messages that were processed.
    pub done: u32,
    /// Attempts that failed and were repeated.
    pub retried: u32,
    /// Messages in the dead letters.
    pub dead: u32,
}

/// Which executions are meant: those that fit everything given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecutionFilter {
    /// Only of this flow.
    pub flow: Option<FlowName>,
    /// Only those that stand so.
    pub status: Option<ExecutionStatus>,
    /// Only those that began before this one: for paging.
    pub before: Option<ExecutionId>,
    /// At most so many.
    pub limit: u32,
}

/// How the events of one execution change its index entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExecutionChange {
    pub(crate) id: ExecutionId,
    pub(crate) flow: FlowName,
    pub(crate) version: u32,
    pub(crate) started_at: i64,
    pub(crate) ended_at: i64,
    pub(crate) waiting: i64,
    pub(crate) done: i64,
    pub(crate) retried: i64,
    pub(crate) dead: i64,
}

/// A flow as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredFlow {
    pub(crate) name: FlowName,
    pub(crate) version: u32,
    pub(crate) active: bool,
    pub(crate) paused: bool,
    pub(crate) draining: bool,
    pub(crate) document: String,
}

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
}

/// A flow's paused state, to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowState {
    pub(crate) active: bool,
    pub(crate) paused: bool,
    pub(crate) draining: bool,
}

impl Store {
    pub(crate) async fn open(path: &Path) -> Result<Self, EngineError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10))
            .pragma("cache_size", "-2000");
        let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(|error| EngineError::Store(error.to_string()))?;
        Ok(Self { pool })
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) async fn flows(&self) -> Result<Vec<StoredFlow>, EngineError> {
        let rows = sqlx::query(
            "SELECT flow.*, flow_version.document FROM flow JOIN flow_version
             ON flow_version.flow = flow.name AND flow_version.version = flow.version ORDER BY flow.name",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(stored_flow).collect()
    }

    pub(crate) async fn publish(
        &self,
        flow: &FlowName,
        version: u32,
        document: &str,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO flow_version (flow, version, document, published_at) VALUES (?, ?, ?, ?)")
            .bind(flow.as_str())
            .bind(version)
            .bind(document)
            .bind(now.as_millis())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO flow (name, version, active) VALUES (?, ?, 1)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, active = 1, draining = 0",
        )
        .bind(flow.as_str())
        .bind(version)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn document(&self, flow: &FlowName, version: u32) -> Result<Option<String>, EngineError> {
        let row = sqlx::query("SELECT document FROM flow_version WHERE flow = ? AND version = ?")
            .bind(flow.as_str())
            .bind(version)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    pub(crate) async fn set_flow(&self, flow: &FlowName, state: FlowState) -> Result<(), EngineError> {
        sqlx::query("UPDATE flow SET active = ?, paused = ?, draining = ? WHERE name = ?")
            .bind(state.active)
            .bind(state.paused)
            .bind(state.draining)
            .bind(flow.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(crate) async fn paused_steps(&self) -> Result<Vec<(FlowName, StepId, Option<Fault>)>, EngineError> {
        let rows = sqlx::query("SELECT flow, step, fault FROM paused_step").fetch_all(&self.pool).await?;
        let read = |row: &SqliteRow| {
            let fault: Option<String> = row.get("fault");
            let fault = fault.and_then(|text| serde_json::from_str(&text).ok());
            Some((row.get::<&str, _>("flow").parse().ok()?, row.get::<&str, _>("step").parse().ok()?, fault))
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    pub(crate) async fn pause_step(
        &self,
        flow: &FlowName,
        step: &StepId,
        fault: Option<&Fault>,
    ) -> Result<(), EngineError> {
        let fault = fault.and_then(|fault| serde_json::to_string(fault).ok());
        sqlx::query("INSERT OR REPLACE INTO paused_step (flow, step, fault) VALUES (?, ?, ?)")
            .bind(flow.as_str())
            .bind(step.as_str())
            .bind(fault)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(crate) async fn resume_step(&self, flow: &FlowName, step: &StepId) -> Result<(), EngineError> {
        sqlx::query("DELETE FROM paused_step WHERE flow = ? AND step = ?")
            .bind(flow.as_str())
            .bind(step.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// How far the recorder has read.
    pub(crate) async fn recorded(&self) -> Result<u64, EngineError> {
        let row = sqlx::query("SELECT recorded FROM recorder").fetch_one(&self.pool).await?;
        Ok(row.get::<i64, _>(0).unsigned_abs())
    }

    /// Writes what events changed, and how far they were read, as one transaction.
    pub(crate) async fn record(&self, changes: &[ExecutionChange], recorded: u64) -> Result<(), EngineError> {
        let mut transaction = self.pool.begin().await?;
        for rows in changes.chunks(ROWS) {
            let mut insert = QueryBuilder::new(
                "INSERT INTO execution (id, flow, version, started_at, ended_at, waiting, done, retried, dead) ",
            );
            insert.push_values(rows, bind_change);
            // When it began is what its first event says, and so the indexes stay as they are.
            insert.push(
                " ON CONFLICT (id) DO UPDATE SET ended_at = max(ended_at, excluded.ended_at),
                 waiting = waiting + excluded.waiting, done = done + excluded.done,
                 retried = retried + excluded.retried, dead = dead + excluded.dead",
            );
            let whole = rows.len() == ROWS;
            insert.build().persistent(whole).execute(&mut *transaction).await?;
        }
        let recorded = i64::try_from(recorded).unwrap_or(i64::MAX);
        sqlx::query("UPDATE recorder SET recorded = ?").bind(recorded).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<Execution>, EngineError> {
        let status = filter.status.map(|status| match status {
            ExecutionStatus::Running => 0,
            ExecutionStatus::Done => 1,
            ExecutionStatus::Failed => 2,
        });
        let rows = sqlx::query(
            "SELECT * FROM execution
             WHERE (?1 IS NULL OR flow = ?1)
               AND (?2 IS NULL OR ?2 = CASE WHEN waiting > 0 THEN 0 WHEN dead > 0 THEN 2 ELSE 1 END)
               AND (?3 IS NULL OR (started_at, id) <
                    (COALESCE((SELECT started_at FROM execution WHERE id = ?3), 0), ?3))
             ORDER BY started_at DESC, id DESC LIMIT ?4",
        )
        .bind(filter.flow.as_ref().map(FlowName::as_str))
        .bind(status)
        .bind(filter.before.map(|id| id.as_bytes().to_vec()))
        .bind(filter.limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(execution).collect()
    }

    pub(crate) async fn execution(&self, id: ExecutionId) -> Result<Option<Execution>, EngineError> {
        let row = sqlx::query("SELECT * FROM execution WHERE id = ?")
            .bind(id.as_bytes().to_vec())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(execution).transpose()
    }

    /// Removes at most `max` executions that ended before an instant and have nothing waiting or
    /// dead; returns how many.
    pub(crate) async fn forget(&self, before: Timestamp, max: u32) -> Result<u64, EngineError> {
        let result = sqlx::query(
            "DELETE FROM execution WHERE id IN (SELECT id FROM execution
             WHERE started_at < ?1 AND ended_at < ?1 AND waiting <= 0 AND dead <= 0 ORDER BY started_at LIMIT ?2)",
        )
        .bind(before.as_millis())
        .bind(max)
        .execute(&self.pool)
        .await?;
        Ok(result.rows_affected())
    }
}

/// Rows written by one statement.
const ROWS: usize = 100;

fn bind_change(mut row: Separated<'_, Sqlite, &'static str>, change: &ExecutionChange) {
    row.push_bind(change.id.as_bytes().as_slice())
        .push_bind(change.flow.as_str())
        .push_bind(change.version)
        .push_bind(change.started_at)
        .push_bind(change.ended_at)
        .push_bind(change.waiting)
        .push_bind(change.done)
        .push_bind(change.retried)
        .push_bind(change.dead);
}

fn corrupt(what: &str) -> EngineError {
    EngineError::Store(format!("the store holds a {what} that is none"))
}

fn stored_flow(row: &SqliteRow) -> Result<StoredFlow, EngineError> {
    Ok(StoredFlow {
        name: row.get::<&str, _>("name").parse().map_err(|_| corrupt("flow name"))?,
        version: row.get("version"),
        active: row.get("active"),
        paused: row.get("paused"),
        draining: row.get("draining"),
        document: row.get("document"),
    })
}

fn execution(row: &SqliteRow) -> Result<Execution, EngineError> {
    let id: &[u8] = row.get("id");
    let id = ExecutionId::from_bytes(id.try_into().map_err(|_| corrupt("execution id"))?);
    let count = |name: &str| u32::try_from(row.get::<i64, _>(name).max(0)).unwrap_or(u32::MAX);
    let status = match (count("waiting"), count("dead")) {
        (1.., _) => ExecutionStatus::Running,
        (0, 1..) => ExecutionStatus::Failed,
        (0, 0) => ExecutionStatus::Done,
    };
    let ended = Timestamp::from_millis(row.get("ended_at"));
    Ok(Execution {
        id,
        flow: row.get::<&str, _>("flow").parse().map_err(|_| corrupt("flow name"))?,
        version: row.get("version"),
        status,
        started_at: Timestamp::from_millis(row.get("started_at")),
        ended_at: (status != ExecutionStatus::Running).then_some(ended),
        waiting: count("waiting"),
        done: count("done"),
        retried: count("retried"),
        dead: count("dead"),
    })
}
