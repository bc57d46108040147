-- A window to which something is added all the time must be judged too: it waits for quiet, but not for ever.
ALTER TABLE late_window ADD COLUMN first_noted_at timestamptz;
UPDATE late_window SET first_noted_at = noted_at;
ALTER TABLE late_window ALTER COLUMN first_noted_at SET NOT NULL;
