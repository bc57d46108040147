-- A utility's hydraulic model, and what its elements are called in the registry: detectors that know the network read it.
CREATE TABLE hydraulic_model (
    site_id    text PRIMARY KEY REFERENCES site,
    inp        text NOT NULL,                   -- EPANET 2.2 input file
    element_of jsonb NOT NULL,                  -- asset id -> EPANET id
    digest     text NOT NULL,
    saved_at   timestamptz NOT NULL
);
CREATE TRIGGER hydraulic_model_announce AFTER INSERT OR UPDATE OR DELETE ON hydraulic_model FOR EACH STATEMENT EXECUTE FUNCTION announce_registry();
