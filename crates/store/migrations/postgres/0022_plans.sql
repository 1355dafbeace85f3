-- What is done about a compromised server, step by step, so that a crash repeats nothing that was finished. In
-- `plan_items` the row without a name is the step itself. Times of 0 mean: not yet, or not known.
CREATE TABLE plans (
    id TEXT NOT NULL PRIMARY KEY,
    server TEXT NOT NULL,
    bad_since BIGINT NOT NULL,
    why TEXT NOT NULL,
    done_by TEXT NOT NULL,
    begun_at BIGINT NOT NULL,
    ended_at BIGINT NOT NULL
);

CREATE INDEX plans_by_server ON plans (server, begun_at);

CREATE TABLE plan_items (
    plan TEXT NOT NULL REFERENCES plans (id),
    step TEXT NOT NULL CHECK (step IN ('quarantine', 'grants', 'secrets', 'pins', 'exposure')),
    name TEXT NOT NULL,
    standing TEXT NOT NULL CHECK (standing IN ('waiting', 'done', 'failed', 'by-hand')),
    words TEXT NOT NULL,
    settled_at BIGINT NOT NULL,
    PRIMARY KEY (plan, step, name)
);

-- Secrets that a compromised server held. The fingerprint is a keyed digest: it tells whether the value is another by now.
CREATE TABLE secret_marks (
    server TEXT NOT NULL,
    place TEXT NOT NULL,
    plan TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    marked_at BIGINT NOT NULL,
    rotated_at BIGINT NOT NULL,
    PRIMARY KEY (server, place)
);
