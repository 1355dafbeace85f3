-- One number for all of them: it rises with every change of what may be shown or called.
CREATE TABLE pin_version (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
);
INSERT INTO pin_version (one, version) VALUES (1, 0);

-- Whoever looks at a server locks its row first.
CREATE TABLE pin_servers (
    server TEXT PRIMARY KEY,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL
);

-- When a kind was first looked at as a whole: what comes later was not there at first use.
CREATE TABLE pin_first_looks (
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (server, kind)
);

-- One row for each definition a server has ever offered. Hashes are SHA-256 in hexadecimal.
CREATE TABLE pins (
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('approved', 'pending', 'rejected', 'withdrawn')),
    approved TEXT,
    waiting TEXT,
    refused TEXT,
    offered TEXT,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    decided_by TEXT,
    decided_at BIGINT,
    version BIGINT NOT NULL,
    seal TEXT NOT NULL,
    PRIMARY KEY (server, kind, name)
);

-- Every form of a definition that is still of interest, as canonical JSON.
CREATE TABLE pin_forms (
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    body TEXT NOT NULL,
    text TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    approved_by TEXT,
    approved_at BIGINT,
    PRIMARY KEY (server, kind, name, hash)
);

CREATE TABLE pin_findings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    rule TEXT NOT NULL,
    severity TEXT NOT NULL,
    words TEXT NOT NULL,
    blocks BIGINT NOT NULL,
    at BIGINT NOT NULL,
    UNIQUE (server, kind, name, hash, rule, words)
);

CREATE TABLE pin_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    at BIGINT NOT NULL,
    event TEXT NOT NULL,
    hash TEXT,
    by_whom TEXT NOT NULL
);
CREATE INDEX pin_history_of ON pin_history (server, kind, name, id);

-- Which set of definitions a caller was last offered. Callers mostly share one, so a set is kept once.
CREATE TABLE pin_inventories (
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    caller TEXT NOT NULL,
    offered_set TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (server, kind, caller)
);
CREATE TABLE pin_sets (
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    offered_set TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (server, kind, offered_set, name)
);
