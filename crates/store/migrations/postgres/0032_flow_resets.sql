-- Counts how often anybody's window was reset, in its one row: whoever remembers what is on record sees that some of it may not
-- be any more. It takes the place of `flow_owners.generation`, which nobody reads.
CREATE TABLE flow_resets (id BIGINT PRIMARY KEY, resets BIGINT NOT NULL);
INSERT INTO flow_resets (id, resets) VALUES (1, 0);
