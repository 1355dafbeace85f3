-- How far the chain of signing keys that begins with a configuration's keys (root) was followed: the number of its last
-- link, that link's digest, and all links as they were signed.
CREATE TABLE bundle_chains (
    root TEXT NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    digest TEXT NOT NULL,
    links TEXT NOT NULL,
    taken_at BIGINT NOT NULL,
    mark TEXT NOT NULL
);
