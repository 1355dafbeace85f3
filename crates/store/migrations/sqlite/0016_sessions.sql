-- Legacy sessions, by the digest of the number that their sealed id holds. The node that opened one holds the conversation:
-- whoever else ends it writes `ended_at`, and the node `closed_at` once the conversation is over. An empty server is all of
-- them (`/mcp`).
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    server TEXT NOT NULL,
    revision TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    ended_at BIGINT,
    ended_by TEXT CHECK (ended_by IN ('client', 'erased', 'idle', 'lost', 'revoked', 'server', 'stopped')),
    closed_at BIGINT
);
CREATE INDEX sessions_open ON sessions (node) WHERE closed_at IS NULL;
CREATE INDEX sessions_to_close ON sessions (node) WHERE ended_at IS NOT NULL AND closed_at IS NULL;
CREATE INDEX sessions_of_person ON sessions (issuer, subject);
CREATE INDEX sessions_seen ON sessions (seen_at);
