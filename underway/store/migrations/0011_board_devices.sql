-- Dashboards also show which devices are gone and whose clocks are wrong: the grant takes these tables in, and whoever has it already gets them now.
CREATE OR REPLACE FUNCTION board_grant(reader name) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    shown  text[] := ARRAY['site', 'zone', 'asset', 'device', 'channel', 'reading', 'quarantine', 'finding', 'signal', 'expectation', 'hold',
                           'incident', 'alarm', 'work_order', 'alarm_event', 'incident_event', 'order_event', 'sla_clock', 'assignment',
                           'shift', 'skill', 'crew_skill', 'service_status', 'town_clock', 'board_alarm', 'board_order', 'board_sla',
                           'board_segment', 'device_presence', 'device_clock'];
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

DO $$
DECLARE
    reader name;
BEGIN
    FOR reader IN SELECT DISTINCT r.rolname FROM pg_class c, aclexplode(c.relacl) a, pg_roles r
                  WHERE c.oid = 'board_alarm'::regclass AND a.privilege_type = 'SELECT' AND r.oid = a.grantee AND a.grantee <> c.relowner LOOP
        EXECUTE format('GRANT SELECT ON device_presence, device_clock TO %I', reader);
    END LOOP;
END $$;
