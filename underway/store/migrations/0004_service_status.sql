-- What each service says of itself about once a second: web, Grafana and the live terminal read it.
CREATE TABLE service_status (
    service    text PRIMARY KEY,
    pid        integer NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,            -- wall clock of the service: a stale row is a service that hangs or is gone
    facts      jsonb NOT NULL DEFAULT '{}'
);

-- Whoever changes the address book, ingest hears of it.
CREATE FUNCTION announce_registry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('underway_registry', '');
    RETURN NULL;
END $$;
CREATE TRIGGER site_announce AFTER INSERT OR UPDATE OR DELETE ON site FOR EACH STATEMENT EXECUTE FUNCTION announce_registry();
CREATE TRIGGER zone_announce AFTER INSERT OR UPDATE OR DELETE ON zone FOR EACH STATEMENT EXECUTE FUNCTION announce_registry();
CREATE TRIGGER asset_announce AFTER INSERT OR UPDATE OR DELETE ON asset FOR EACH STATEMENT EXECUTE FUNCTION announce_registry();
CREATE TRIGGER device_announce AFTER INSERT OR UPDATE OR DELETE ON device FOR EACH STATEMENT EXECUTE FUNCTION announce_registry();
CREATE TRIGGER channel_announce AFTER INSERT OR UPDATE OR DELETE ON channel FOR EACH STATEMENT EXECUTE FUNCTION announce_registry();
CREATE TRIGGER leak_signature_announce AFTER INSERT OR UPDATE OR DELETE ON leak_signature FOR EACH STATEMENT EXECUTE FUNCTION announce_registry();
