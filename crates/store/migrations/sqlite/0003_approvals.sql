-- Decisions that wait for a person, each bound to one exact call.
CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    server TEXT NOT NULL,
    tool TEXT NOT NULL,
    bytes TEXT NOT NULL,
    pin TEXT NOT NULL,
    policy TEXT NOT NULL,
    role TEXT NOT NULL,
    by_self BIGINT NOT NULL,
    words TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('approved', 'denied', 'used', 'waiting')),
    asked_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    decided_by TEXT,
    decided_at BIGINT,
    used_at BIGINT,
    seal TEXT
);
CREATE INDEX approvals_of ON approvals (issuer, subject, client, bytes);
CREATE INDEX approvals_until ON approvals (expires_at);
