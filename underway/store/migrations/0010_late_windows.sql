-- A window that cannot be judged makes room for the others, and is given up after some attempts; each site has its own.
ALTER TABLE late_window
    ADD COLUMN site_id     text NOT NULL DEFAULT '',
    ADD COLUMN attempts    integer NOT NULL DEFAULT 0,                     -- begun, the one under way too
    ADD COLUMN next_at     timestamptz,                                    -- not tried again before
    ADD COLUMN last_error  text NOT NULL DEFAULT '',
    ADD COLUMN given_up_at timestamptz;                                    -- stays to be seen, is not tried again
UPDATE late_window SET site_id = device.site_id FROM channel JOIN device USING (device_id) WHERE channel.channel_id = late_window.channel_ids[1];
DELETE FROM late_window WHERE site_id = '';                                -- its channels are gone: there is nothing to judge
DROP INDEX late_window_by_lane;
CREATE INDEX late_window_by_lane ON late_window (site_id, lane);
