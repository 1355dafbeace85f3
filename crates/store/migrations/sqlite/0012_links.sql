-- What a person's account at a server lets the gate do there. `sealed` holds the tokens, bound to its row.
CREATE TABLE upstream_grants (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    server TEXT NOT NULL,
    upstream TEXT NOT NULL,
    scopes TEXT NOT NULL,
    sealed TEXT NOT NULL,
    revision BIGINT NOT NULL,
    granted_at BIGINT NOT NULL,
    renewing_until BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject, server)
);

-- Who the gate is at an authorization server, where it registered itself.
CREATE TABLE upstream_registrations (
    upstream TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    sealed TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    PRIMARY KEY (upstream, redirect_uri)
);

-- People on their way to an authorization server and back, by the digest of their `state`.
CREATE TABLE upstream_errands (
    state TEXT NOT NULL PRIMARY KEY,
    sealed TEXT NOT NULL,
    until BIGINT NOT NULL
);
CREATE INDEX upstream_errands_until ON upstream_errands (until);
