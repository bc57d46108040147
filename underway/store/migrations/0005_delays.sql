-- On-delays and off-delays that run; retro alarms: what late data would have said, dated, paging nobody.
CREATE TABLE alarm_delay (
    site_id    text NOT NULL REFERENCES site,
    asset_id   text NOT NULL,
    alarm_type text NOT NULL,
    event      text NOT NULL CHECK (event IN ('raise', 'clear')),
    finding_id uuid NOT NULL REFERENCES finding,
    due_at     timestamptz NOT NULL,
    PRIMARY KEY (site_id, asset_id, alarm_type)
);
CREATE INDEX alarm_delay_due ON alarm_delay (due_at);

CREATE TABLE retro_alarm (
    finding_id  uuid PRIMARY KEY REFERENCES finding,
    site_id     text NOT NULL REFERENCES site,
    asset_id    text NOT NULL,
    alarm_type  text NOT NULL,
    phase       text NOT NULL,
    occurred_at timestamptz NOT NULL,
    detected_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX retro_alarm_by_asset ON retro_alarm (asset_id, alarm_type, occurred_at);
