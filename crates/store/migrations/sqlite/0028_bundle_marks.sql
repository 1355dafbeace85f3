-- Each row has the gate's mark, without which it counts for nothing. What an unmarked table says cannot be told from what
-- somebody else wrote there, so it is forgotten: the next bundle that is taken up counts anew.
DELETE FROM bundle_versions;
ALTER TABLE bundle_versions ADD COLUMN mark TEXT NOT NULL DEFAULT '';
