-- When what was last reviewed.
CREATE TABLE reviews (
    name TEXT PRIMARY KEY,
    begun_at BIGINT NOT NULL,
    done_at BIGINT
);

-- What the last review found, and what a person decided about it until when.
CREATE TABLE review_findings (
    id TEXT PRIMARY KEY,
    words TEXT NOT NULL,
    found_at BIGINT NOT NULL,
    decision TEXT CHECK (decision IN ('accepted', 'waived')),
    decided_by TEXT,
    why TEXT,
    decided_at BIGINT,
    until BIGINT
);
