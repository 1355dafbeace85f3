-- The newest bundle of the shield's that each key signed and a gate took up, so that an older one is noticed.
CREATE TABLE bundle_versions (
    key_id TEXT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    digest TEXT NOT NULL,
    taken_at BIGINT NOT NULL
);
