-- Results that are withheld until a person has looked, sealed, each for one caller and one exact request.
CREATE TABLE quarantine (
    id TEXT PRIMARY KEY,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    server TEXT NOT NULL,
    method TEXT NOT NULL,
    name TEXT NOT NULL,
    request TEXT NOT NULL,
    found TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('held', 'released')),
    kept_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    decided_by TEXT,
    sealed TEXT NOT NULL,
    mark TEXT NOT NULL
);
CREATE INDEX quarantine_of ON quarantine (issuer, subject, client, server, request);
CREATE INDEX quarantine_until ON quarantine (expires_at);
