-- What zones lose: night flow, water balance, unavoidable losses and the index of both (IWA), and what a repair gave back.
-- The formulas are those of detectors/water/losses.py; docs/losses.md says where they come from. A zone's attributes hold what no sensor tells:
-- people, night_use_m3ph, connections, mains_km, private_km, billed_m3_a_year, unbilled_m3_a_year, apparent_m3_a_year.

CREATE FUNCTION zone_number(attributes jsonb, name text) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN jsonb_typeof(attributes -> name) = 'number' THEN (attributes ->> name)::double precision END
$$;

-- What flows into a zone: a meter between two zones counts for both.
CREATE FUNCTION zone_feed()
RETURNS TABLE (zone_id text, channel_id integer, sign double precision, interval_s double precision) LANGUAGE sql STABLE AS $$
    SELECT c.zone_id, c.channel_id, c.sign::double precision, c.interval_s FROM channel c
    WHERE c.role IN ('zone_inflow', 'tank_flow') AND c.quantity = 'flow' AND c.zone_id IS NOT NULL
    UNION ALL
    SELECT c.also_zone_id, c.channel_id, -c.sign::double precision, c.interval_s FROM channel c
    WHERE c.role IN ('zone_inflow', 'tank_flow') AND c.quantity = 'flow' AND c.also_zone_id IS NOT NULL
$$;

-- One row a zone and night (02:00 to 04:00 local time). Unknown while one of its meters has nothing: half a balance is none.
CREATE FUNCTION loss_night(first date, after_last date)
RETURNS TABLE (site_id text, zone_id text, zone text, night date, inflow_m3ph double precision, legitimate_m3ph double precision,
               net_m3ph double precision, share double precision)
LANGUAGE sql STABLE AS $$
    SELECT n.site_id, n.zone_id, n.zone, n.night, n.inflow, n.used, n.inflow - n.used, n.share
    FROM (
        SELECT z.site_id, z.zone_id, z.name AS zone, d.night::date AS night,
               CASE WHEN count(r.mean) = count(*) THEN sum(f.sign * r.mean) END AS inflow,
               coalesce(zone_number(z.attributes, 'people'), 0) * 0.06 * 10 / 1000 + coalesce(zone_number(z.attributes, 'night_use_m3ph'), 0) AS used,
               least(min(r.readings * f.interval_s / 7200.0), 1.0) AS share
        FROM zone z
        JOIN site s ON s.site_id = z.site_id
        JOIN zone_feed() f ON f.zone_id = z.zone_id
        CROSS JOIN generate_series(first::timestamp, (after_last - 1)::timestamp, INTERVAL '1 day') AS d (night)
        CROSS JOIN LATERAL (
            SELECT avg(value) AS mean, count(*) AS readings FROM reading
            WHERE channel_id = f.channel_id AND quality < 2
              AND observed_at >= (d.night + INTERVAL '2 hours') AT TIME ZONE s.timezone
              AND observed_at < (d.night + INTERVAL '4 hours') AT TIME ZONE s.timezone) r
        WHERE z.kind = 'dma'
        GROUP BY z.site_id, z.zone_id, z.name, z.attributes, d.night) n
    WHERE n.share > 0
$$;

-- One row a zone: its water balance over a period, made a year of. Where the utility has not said what was billed, real losses are 24 times the median
-- net night flow. `doubts` says why an index is not what UARL is stated for, `missing` which attributes of the zone would make more of it.
CREATE FUNCTION loss_zone(first date, after_last date)
RETURNS TABLE (site_id text, zone_id text, zone text, nights integer, input_m3_a_year double precision, nrw_m3_a_year double precision,
               nrw_share double precision, night_m3ph double precision, net_night_m3ph double precision, carl_m3_a_year double precision,
               carl_from text, uarl_m3_a_year double precision, ili double precision, pressure_m double precision, doubts text[], missing text[])
LANGUAGE sql STABLE AS $$
    WITH night AS (
        SELECT l.zone_id, count(l.net_m3ph)::integer AS nights, percentile_cont(0.5) WITHIN GROUP (ORDER BY l.inflow_m3ph) AS flow,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY l.net_m3ph) AS net
        FROM loss_night(first, after_last) l GROUP BY l.zone_id),
    told AS (
        SELECT z.site_id, z.zone_id, z.name, zone_number(z.attributes, 'people') AS people,
               zone_number(z.attributes, 'connections') AS connections,
               coalesce(zone_number(z.attributes, 'mains_km'), (
                   SELECT sum(zone_number(a.attributes, 'length_m')) / 1000 FROM asset a
                   WHERE a.zone_id = z.zone_id AND a.asset_class = 'pipe')) AS mains_km,
               coalesce(zone_number(z.attributes, 'private_km'), 0) AS private_km, zone_number(z.attributes, 'billed_m3_a_year') AS billed,
               coalesce(zone_number(z.attributes, 'unbilled_m3_a_year'), 0) AS unbilled,
               coalesce(zone_number(z.attributes, 'apparent_m3_a_year'), 0) AS apparent,
               first::timestamp AT TIME ZONE s.timezone AS from_at, after_last::timestamp AT TIME ZONE s.timezone AS until_at
        FROM zone z JOIN site s ON s.site_id = z.site_id
        WHERE z.kind = 'dma' AND EXISTS (SELECT FROM zone_feed() f WHERE f.zone_id = z.zone_id)),
    measured AS (
        SELECT t.*,
               (SELECT CASE WHEN count(r.mean) = count(*) THEN sum(f.sign * r.mean) * 8760 END
                FROM zone_feed() f CROSS JOIN LATERAL (
                    SELECT avg(value) AS mean FROM reading
                    WHERE channel_id = f.channel_id AND quality < 2 AND observed_at >= t.from_at AND observed_at < t.until_at) r
                WHERE f.zone_id = t.zone_id) AS input,
               (SELECT avg(value) / 9.80665 FROM channel c JOIN reading r USING (channel_id)
                WHERE c.zone_id = t.zone_id AND c.role = 'zone_pressure' AND c.quantity = 'pressure' AND r.quality < 2
                  AND r.observed_at >= t.from_at AND r.observed_at < t.until_at) AS pressure
        FROM told t),
    real_losses AS (
        SELECT m.*, n.nights, n.flow, n.net,
               CASE WHEN m.billed IS NOT NULL THEN m.input - m.billed - m.unbilled - m.apparent ELSE n.net * 8760 END AS carl,
               (18 * m.mains_km + 0.8 * m.connections + 25 * m.private_km) * m.pressure / 1000 * 365 AS uarl
        FROM measured m LEFT JOIN night n USING (zone_id))
    SELECT site_id, zone_id, name, coalesce(nights, 0), input, input - billed, (input - billed) / nullif(input, 0), flow, net, carl,
           CASE WHEN carl IS NULL THEN NULL WHEN billed IS NOT NULL THEN 'balance' ELSE 'night flow' END,
           uarl, carl / nullif(uarl, 0), pressure,
           array_remove(ARRAY[
               CASE WHEN connections <= 5000 THEN 'few_connections' END,
               CASE WHEN connections / nullif(mains_km, 0) <= 20 THEN 'sparse_connections' END,
               CASE WHEN pressure < 25 THEN 'pressure_low' END,
               CASE WHEN pressure > 100 THEN 'pressure_high' END,
               CASE WHEN coalesce(nights, 0) * 2 < after_last - first THEN 'few_nights' END], NULL),
           array_remove(ARRAY[
               CASE WHEN people IS NULL THEN 'people' END,
               CASE WHEN connections IS NULL THEN 'connections' END,
               CASE WHEN mains_km IS NULL THEN 'mains_km' END,
               CASE WHEN billed IS NULL THEN 'billed_m3_a_year' END], NULL)
    FROM real_losses
$$;

-- One row a leak order that was closed: the median night flow of its zone before less after, in m3/h, with its standard error.
-- Before: from the onset on, at most 14 nights; after: 14 nights from the second one on.
CREATE FUNCTION loss_repair(first date, after_last date)
RETURNS TABLE (site_id text, order_id bigint, zone_id text, asset_id text, closed_at timestamptz, before_m3ph double precision,
               after_m3ph double precision, recovered_m3ph double precision, sd_m3ph double precision, nights_before integer,
               nights_after integer, doubts text[])
LANGUAGE sql STABLE AS $$
    WITH repair AS (
        SELECT o.site_id, o.order_id, o.zone_id, o.asset_id, o.closed_at, (coalesce(i.stopped_at, o.closed_at) AT TIME ZONE s.timezone)::date AS day,
               (coalesce(i.onset_at, o.aware_at) AT TIME ZONE s.timezone)::date AS onset
        FROM work_order o JOIN incident i ON i.incident_id = o.incident_id JOIN site s ON s.site_id = o.site_id
        WHERE o.order_type = 'leak_repair' AND o.state = 'CLOSED'
          AND o.closed_at >= first::timestamp AT TIME ZONE s.timezone AND o.closed_at < after_last::timestamp AT TIME ZONE s.timezone),
    night AS MATERIALIZED (SELECT l.zone_id, l.night, l.inflow_m3ph FROM loss_night(first - 30, after_last + 16) l),
    side AS (
        SELECT r.order_id, n.night > r.day AS after, n.inflow_m3ph AS flow
        FROM repair r JOIN night n ON n.zone_id = r.zone_id AND n.inflow_m3ph IS NOT NULL
         AND (n.night BETWEEN greatest(r.day - 13, r.onset + 1) AND r.day OR n.night BETWEEN r.day + 2 AND r.day + 15)),
    middle AS (SELECT order_id, after, percentile_cont(0.5) WITHIN GROUP (ORDER BY flow) AS median, count(*)::integer AS nights FROM side GROUP BY 1, 2),
    spread AS (
        SELECT m.order_id, m.after, m.median, m.nights,
               1.2533 * 1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(s.flow - m.median)) / sqrt(m.nights) AS error
        FROM middle m JOIN side s USING (order_id, after) GROUP BY m.order_id, m.after, m.median, m.nights),
    both_sides AS (
        SELECT r.*, b.median AS was, a.median AS is_now, b.nights AS nb, a.nights AS na, sqrt(b.error * b.error + a.error * a.error) AS sd,
               (SELECT count(*) FROM repair x WHERE x.zone_id = r.zone_id AND x.order_id <> r.order_id AND abs(x.day - r.day) <= 15) AS others
        FROM repair r
        LEFT JOIN spread b ON b.order_id = r.order_id AND NOT b.after
        LEFT JOIN spread a ON a.order_id = r.order_id AND a.after)
    SELECT site_id, order_id, zone_id, asset_id, closed_at, was, is_now, was - is_now, sd, coalesce(nb, 0), coalesce(na, 0),
           array_remove(ARRAY[
               CASE WHEN coalesce(nb, 0) < 7 OR coalesce(na, 0) < 7 THEN 'few_nights' END,
               CASE WHEN others > 0 THEN 'other_repair' END,
               CASE WHEN was - is_now < 2 * sd THEN 'within_noise' END], NULL)
    FROM both_sides
$$;
