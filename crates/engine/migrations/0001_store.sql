-- Flows, their published versions, what is paused, and the index of executions.

CREATE TABLE flow (
    name     TEXT PRIMARY KEY NOT NULL,
    version  INTEGER NOT NULL,
    -- Its document is there: new input is accepted.
    active   INTEGER NOT NULL,
    paused   INTEGER NOT NULL DEFAULT 0,
    draining INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE flow_version (
    flow         TEXT NOT NULL,
    version      INTEGER NOT NULL,
    document     TEXT NOT NULL,
    published_at INTEGER NOT NULL,
    PRIMARY KEY (flow, version)
);

CREATE TABLE paused_step (
    flow  TEXT NOT NULL,
    step  TEXT NOT NULL,
    -- Why it paused itself, as JSON; null if somebody paused it.
    fault TEXT,
    PRIMARY KEY (flow, step)
);

CREATE TABLE execution (
    id         BLOB PRIMARY KEY NOT NULL,
    flow       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    -- Messages of it that wait on a queue or are being worked on.
    waiting    INTEGER NOT NULL,
    done       INTEGER NOT NULL,
    retried    INTEGER NOT NULL,
    dead       INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX execution_by_time ON execution (started_at);
CREATE INDEX execution_by_flow ON execution (flow, started_at);

-- How far the recorder has read the events of the queues.
CREATE TABLE recorder (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    recorded INTEGER NOT NULL
);
INSERT INTO recorder VALUES (1, 0);
