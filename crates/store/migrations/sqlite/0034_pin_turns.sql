-- How often a definition turned into another form, or came back, since a person decided: what is flapping is told once.
ALTER TABLE pins ADD COLUMN turns BIGINT NOT NULL DEFAULT 0;
