-- What dashboards read: views with the words that people know, and the rights of a read-only role.

-- The instant that the services call now: the clock of a simulated town where there is one, else the system's.
CREATE FUNCTION board_now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT town_at + make_interval(secs => least(greatest(extract(epoch FROM now() - wall_at), 0) * speed, ahead_s_max))
         FROM town_clock),
        now())
$$;

-- Longitude and latitude in the middle of a GeoJSON geometry (the mean of its vertices), NULL without one.
CREATE FUNCTION board_point(geometry jsonb) RETURNS double precision[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY[avg((p ->> 0)::double precision), avg((p ->> 1)::double precision)]
    FROM jsonb_path_query(geometry, 'strict $.coordinates.** ? (@.type() == "array" && @[0].type() == "number")', '{}', true) AS p
    HAVING count(*) > 0
$$;

-- 4 urgent, 3 high, 2 medium, 1 low, 0 journal.
CREATE FUNCTION board_rank(priority text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT array_position(ARRAY['journal', 'low', 'medium', 'high', 'urgent'], priority) - 1
$$;

CREATE VIEW board_alarm AS
SELECT a.alarm_id, a.site_id, a.zone_id, a.asset_id, a.alarm_type, a.priority, board_rank(a.priority) AS rank,
       CASE a.suppression WHEN 'shelved' THEN 'SHLVD' WHEN 'by_design' THEN 'DSUPR' WHEN 'out_of_service' THEN 'OOSRV' ELSE
           CASE WHEN a.condition = 'active' OR (a.condition = 'unknown' AND a.normal_at IS NULL)
                THEN CASE a.ack WHEN 'unacked' THEN 'UNACK' ELSE 'ACKED' END
                ELSE CASE a.ack WHEN 'unacked' THEN 'RTNUN' ELSE 'NORM' END END END AS state,
       coalesce(s.name, a.asset_id) AS asset, coalesce(z.name, a.zone_id) AS zone,
       a.occurred_at, a.detected_at, a.raised_at, a.normal_at, a.closed_at, a.evidence_stale_since, a.shelved_until, a.occurrence, a.flaps,
       coalesce(nullif(a.evidence ->> 'summary', ''), a.alarm_type) AS evidence,
       a.incident_id, o.order_id, 'WO-' || o.order_id AS work_order, o.state AS order_state,
       CASE WHEN o.crew_id IS NOT NULL THEN coalesce(c.name, o.crew_id) END AS crew,
       coalesce(board_point(p.geometry), board_point(s.geometry), board_point(z.geometry)) AS point
FROM alarm a
LEFT JOIN asset s ON s.asset_id = a.asset_id
LEFT JOIN zone z ON z.zone_id = a.zone_id
LEFT JOIN asset p ON p.asset_id = a.evidence -> 'candidates' -> 0 ->> 'asset_id'
LEFT JOIN LATERAL (SELECT w.order_id, w.state, w.crew_id FROM work_order w WHERE w.incident_id = a.incident_id
                   ORDER BY (w.state IN ('CLOSED', 'CANCELLED')), w.order_id DESC LIMIT 1) o ON true
LEFT JOIN crew c ON c.crew_id = o.crew_id;

CREATE VIEW board_order AS
SELECT o.order_id, o.site_id, o.zone_id, o.asset_id, 'WO-' || o.order_id AS work_order, o.incident_id, o.order_type, o.title, o.priority,
       board_rank(o.priority) AS rank, o.state, o.waiting_reason, coalesce(s.name, o.asset_id) AS asset,
       coalesce(z.name, o.zone_id) AS zone, coalesce(c.name, o.crew_id) AS crew, o.created_at, o.aware_at, o.due_at, o.closed_at,
       e.at AS since_at, e.reason AS since_reason, o.rework, o.outcome, o.verification, o.plan,
       coalesce(board_point(p.geometry), board_point(s.geometry), board_point(z.geometry)) AS point
FROM work_order o
LEFT JOIN asset s ON s.asset_id = o.asset_id
LEFT JOIN zone z ON z.zone_id = o.zone_id
LEFT JOIN crew c ON c.crew_id = o.crew_id
LEFT JOIN asset p ON p.asset_id = o.location -> 'candidates' -> 0 ->> 'asset_id'
LEFT JOIN LATERAL (SELECT x.at, x.reason FROM order_event x WHERE x.subject_id = o.order_id AND x.to_state = o.state
                   AND x.from_state <> x.to_state ORDER BY x.seq DESC LIMIT 1) e ON true;

-- One row a service clock, with the share of its time that is used (1 at the due instant; pauses do not count).
CREATE VIEW board_sla AS
SELECT k.order_id, 'WO-' || k.order_id AS work_order, k.name, k.state, k.started_at, k.due_at + make_interval(secs => k.paused_s) AS due_at,
       k.met_at, k.paused_s,
       greatest(extract(epoch FROM u.until_at - k.started_at) - k.paused_s, 0) / nullif(extract(epoch FROM k.due_at - k.started_at), 0) AS used,
       o.site_id, o.zone_id, o.priority, o.state AS order_state, o.title
FROM sla_clock k
JOIN work_order o USING (order_id)
CROSS JOIN LATERAL (SELECT coalesce(k.met_at,
    CASE WHEN k.state = 'PAUSED' THEN (SELECT max(x.at) FROM order_event x WHERE x.subject_id = k.order_id AND x.to_state = 'WAITING') END,
    board_now()) AS until_at) u;

-- Lines of the map as straight segments, at most six an asset: a curved main keeps its ends and evenly chosen corners.
CREATE VIEW board_segment AS
WITH vertex AS (
    SELECT a.asset_id, a.zone_id, a.asset_class, a.name, v.n, count(*) OVER (PARTITION BY a.asset_id) AS total,
           round((v.p ->> 0)::numeric, 6) AS longitude, round((v.p ->> 1)::numeric, 6) AS latitude
    FROM asset a CROSS JOIN LATERAL jsonb_array_elements(a.geometry -> 'coordinates') WITH ORDINALITY v (p, n)
    WHERE a.geometry ->> 'type' = 'LineString'),
segment AS (
    SELECT asset_id, zone_id, asset_class, name, n, longitude, latitude,
           lead(longitude) OVER w AS to_longitude, lead(latitude) OVER w AS to_latitude
    FROM vertex WHERE n = 1 OR n = total OR (n - 1) % greatest(ceil((total - 1) / 5.0), 1)::bigint = 0
    WINDOW w AS (PARTITION BY asset_id ORDER BY n))
SELECT asset_id, zone_id, asset_class, name, n, longitude, latitude, to_longitude, to_latitude FROM segment WHERE to_longitude IS NOT NULL;

-- Give a role the right to read what dashboards show, and nothing else: no password hashes, no phone numbers, no notifications.
CREATE FUNCTION board_grant(reader name) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    shown  text[] := ARRAY['site', 'zone', 'asset', 'device', 'channel', 'reading', 'quarantine', 'finding', 'signal', 'expectation', 'hold',
                           'incident', 'alarm', 'work_order', 'alarm_event', 'incident_event', 'order_event', 'sla_clock', 'assignment',
                           'shift', 'skill', 'crew_skill', 'service_status', 'town_clock', 'board_alarm', 'board_order', 'board_sla',
                           'board_segment'];
    item   text;
    given  integer := 0;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), reader);
    FOREACH item IN ARRAY shown LOOP
        IF to_regclass(item) IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %I TO %I', item, reader);
            given := given + 1;
        END IF;
    END LOOP;
    EXECUTE format('GRANT SELECT (crew_id, site_id, name, longitude_deg, latitude_deg, language) ON crew TO %I', reader);
    RETURN given + 1;
END $$;
REVOKE EXECUTE ON FUNCTION board_grant(name) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'underway_reader') THEN
        PERFORM board_grant('underway_reader');
    END IF;
END $$;
