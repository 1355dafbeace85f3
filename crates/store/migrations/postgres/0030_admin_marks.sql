-- The mark of whoever granted a role, without which it counts for nothing. Roles from before end within hours; grant them again.
ALTER TABLE admin_roles ADD COLUMN seal TEXT NOT NULL DEFAULT '';
