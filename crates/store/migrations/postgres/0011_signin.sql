-- What a person allowed a client to do in their name: exactly this, and nothing that differs in one column.
CREATE TABLE consents (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    client TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    scopes TEXT NOT NULL,
    resource TEXT NOT NULL,
    metadata TEXT NOT NULL,
    client_name TEXT NOT NULL,
    given_at BIGINT NOT NULL,
    seal TEXT NOT NULL,
    PRIMARY KEY (issuer, subject, client, redirect_uri, scopes, resource)
);

-- Browsers in which somebody is signed in, by the digest of their cookie.
CREATE TABLE browsers (
    id TEXT PRIMARY KEY,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    person TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX browsers_of ON browsers (issuer, subject);
CREATE INDEX browsers_until ON browsers (expires_at);

-- What happens once: sign-ins under way, one-time links, forms that were sent.
CREATE TABLE pending (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX pending_until ON pending (expires_at);
