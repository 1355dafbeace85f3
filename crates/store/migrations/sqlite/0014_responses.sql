-- What somebody cut off in response to something: servers and tools in quarantine, people and clients whose access is
-- revoked. A row is in force for as long as it is there. An empty issuer means any; an empty tool, all of the server.
CREATE TABLE responses (
    kind TEXT NOT NULL CHECK (kind IN ('client', 'person', 'server', 'tool')),
    issuer TEXT NOT NULL,
    name TEXT NOT NULL,
    tool TEXT NOT NULL,
    why TEXT NOT NULL,
    done_by TEXT NOT NULL,
    done_at BIGINT NOT NULL,
    PRIMARY KEY (kind, issuer, name, tool)
);
