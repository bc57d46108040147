-- The event feed of the pages reads the newest steps of all lifecycles.
CREATE INDEX alarm_event_latest ON alarm_event (at DESC);
CREATE INDEX incident_event_latest ON incident_event (at DESC);
CREATE INDEX order_event_latest ON order_event (at DESC);
-- The crew page reads the orders of one crew.
CREATE INDEX work_order_by_crew ON work_order (crew_id, order_id DESC);
