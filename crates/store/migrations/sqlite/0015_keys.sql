-- One data key per person, wrapped under a root that is not in the database. What is sealed of a person opens by these rows
-- alone; during a rotation there are two.
CREATE TABLE person_keys (
    tenant TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    root TEXT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    wrapped TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, issuer, subject, root)
);

-- Secrets that the configuration names by { vault = "NAME" }.
CREATE TABLE vault_secrets (
    name TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    sealed TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
