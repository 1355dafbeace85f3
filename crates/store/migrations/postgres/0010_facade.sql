-- Clients that registered themselves (RFC 7591). Their metadata is sealed: whoever can write here cannot give one a redirect URI.
CREATE TABLE registered_clients (
    id TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX registered_clients_until ON registered_clients (expires_at);

-- What somebody granted a client at one sign-in. All its tokens live and die together.
CREATE TABLE grants (
    id TEXT PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    content TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    code_until BIGINT NOT NULL,
    redeemed_at BIGINT,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX grants_of_person ON grants (issuer, subject);
CREATE INDEX grants_of_client ON grants (client);
CREATE INDEX grants_until ON grants (expires_at);

-- Refresh tokens by their digest. The seal says that we wrote the row.
CREATE TABLE refresh_tokens (
    hash TEXT PRIMARY KEY,
    grant_id TEXT NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    binding TEXT NOT NULL,
    until BIGINT NOT NULL,
    used_at BIGINT,
    seal TEXT NOT NULL
);
CREATE INDEX refresh_tokens_of ON refresh_tokens (grant_id);

-- What was revoked lately, for every process that verifies access tokens.
CREATE TABLE revocations (
    kind TEXT NOT NULL CHECK (kind IN ('client', 'grant', 'subject', 'token')),
    issuer TEXT NOT NULL,
    name TEXT NOT NULL,
    at BIGINT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (kind, issuer, name)
);
CREATE INDEX revocations_at ON revocations (at);

-- Ids of assertions and proofs that were used, until they would be refused for their age.
CREATE TABLE used_ids (
    id TEXT PRIMARY KEY,
    until BIGINT NOT NULL
);
CREATE INDEX used_ids_until ON used_ids (until);

-- Keys that sign access tokens; the private part is sealed.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY,
    private TEXT NOT NULL,
    public TEXT NOT NULL,
    signs_from BIGINT NOT NULL,
    signs_until BIGINT NOT NULL,
    verifies_until BIGINT NOT NULL
);
