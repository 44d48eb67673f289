//! The tables of the host process: version 2 of the file.

pub(super) const HOST: &str = "
CREATE TABLE chat (
    jid TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, last_wall INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE binding (
    grp TEXT NOT NULL PRIMARY KEY, jid TEXT NOT NULL UNIQUE, name TEXT NOT NULL, mention TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    chat TEXT NOT NULL, key TEXT NOT NULL, grp TEXT NOT NULL,
    sender TEXT NOT NULL, sender_name TEXT NOT NULL, text TEXT NOT NULL,
    wall INTEGER NOT NULL, wakes INTEGER NOT NULL, state TEXT NOT NULL,
    UNIQUE (chat, key)
) STRICT;
CREATE INDEX message_state ON message (state, grp, seq);
CREATE TABLE outgoing (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    chat TEXT NOT NULL, grp TEXT NOT NULL, text TEXT NOT NULL, wall INTEGER NOT NULL,
    state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, error TEXT
) STRICT;
CREATE INDEX outgoing_state ON outgoing (state, chat, seq);
CREATE INDEX outgoing_chat ON outgoing (chat, seq);
CREATE TABLE session (
    grp TEXT NOT NULL PRIMARY KEY, id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE task (
    id TEXT NOT NULL,
    grp TEXT NOT NULL, chat TEXT NOT NULL, prompt TEXT NOT NULL, script TEXT,
    kind TEXT NOT NULL, value TEXT NOT NULL, zone TEXT NOT NULL, context TEXT NOT NULL,
    status TEXT NOT NULL, next_wall INTEGER, created_wall INTEGER NOT NULL,
    PRIMARY KEY (grp, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX task_next ON task (status, next_wall);
CREATE TABLE task_run (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL, grp TEXT NOT NULL, due_wall INTEGER NOT NULL,
    state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    started_wall INTEGER, ended_wall INTEGER, result TEXT, error TEXT,
    UNIQUE (grp, task, due_wall)
) STRICT;
CREATE INDEX task_run_state ON task_run (state, grp, seq);
CREATE INDEX task_run_task ON task_run (grp, task, seq);
CREATE TABLE handled (
    key TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TABLE decision (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    wall INTEGER NOT NULL, grp TEXT NOT NULL, way TEXT NOT NULL, operation TEXT NOT NULL,
    target TEXT NOT NULL, permission TEXT NOT NULL, allowed INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE INDEX decision_group ON decision (grp, seq);
";
