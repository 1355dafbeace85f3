-- Counts how often a caller's window was reset: whoever remembers what is on record there sees that it is not any more.
ALTER TABLE flow_owners ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
