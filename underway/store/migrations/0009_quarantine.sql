-- When the message of an entry was sent to the broker again. It failed once more when last_at is later.
ALTER TABLE quarantine ADD COLUMN replayed_at timestamptz;
CREATE INDEX quarantine_overflow_by_time ON quarantine_overflow (last_at);
