-- Whoever admits a call of somebody's locks this row first: labels enter one after the other.
CREATE TABLE flow_owners (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    reset_by TEXT,
    reset_at BIGINT,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject, client)
);

-- Labels that have entered a caller's conversation, one row for each admitted call.
CREATE TABLE flows (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    at BIGINT NOT NULL,
    server TEXT NOT NULL,
    tool TEXT NOT NULL,
    labels TEXT NOT NULL,
    call TEXT NOT NULL
);
CREATE INDEX flows_of ON flows (issuer, subject, client, at);
CREATE INDEX flows_at ON flows (at);
