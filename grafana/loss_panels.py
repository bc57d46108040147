"""Panels of what zones lose and what repairs give back, from the tables of migration 0014."""

from __future__ import annotations

from grafana_foundation_sdk.builders import table

from grafana.look import value
from grafana.panels import _table


def zone_losses() -> table.Panel:
    """Return what every zone lost in the shown time, made a year of."""
    return (
        _table(
            "Water lost, by zone",
            "Over the shown time (a month or more says most). ILI is real losses over the unavoidable ones; it is not valid where 'Doubts' names a "
            "reason. 'Missing' names the attributes of the zone that nobody has given: with them the row says more. Work on the zone with the "
            "largest net night flow first.",
            """
SELECT zone AS "Zone", nights AS "Nights", night_m3ph AS "Night flow", net_night_m3ph AS "Net night flow", carl_m3_a_year AS "Real losses a year",
       carl_from AS "From", nrw_share AS "NRW", uarl_m3_a_year AS "Unavoidable a year", ili AS "ILI",
       array_to_string(doubts, ', ') AS "Doubts", array_to_string(missing, ', ') AS "Missing"
FROM loss_zone(($__timeFrom())::date, ($__timeTo())::date + 1) WHERE zone_id IN (${zone:sqlstring})
ORDER BY net_night_m3ph DESC NULLS LAST, zone LIMIT 200
""",
            {"Doubts": 200, "Missing": 240},
        )
        .span(14)
        .height(9)
        .override_by_name("Night flow", [value("decimals", 1), value("unit", "m3/h")])
        .override_by_name("Net night flow", [value("decimals", 1), value("unit", "m3/h")])
        .override_by_name("Real losses a year", [value("decimals", 0), value("unit", "m3")])
        .override_by_name("Unavoidable a year", [value("decimals", 0), value("unit", "m3")])
        .override_by_name("NRW", [value("decimals", 0), value("unit", "percentunit")])
        .override_by_name("ILI", [value("decimals", 1)])
    )


def repairs_gave_back() -> table.Panel:
    """Return what the repairs that were closed in the shown time gave back."""
    return (
        _table(
            "What repairs gave back",
            "Median night flow of the zone before less after, with its standard error. With a doubt the figure is that of the zone, not of the "
            "repair: another repair beside it, too few nights, or less than two standard errors.",
            """
SELECT 'WO-' || r.order_id AS "Order", coalesce(z.name, r.zone_id) AS "Zone", r.closed_at AS "Closed", r.recovered_m3ph AS "Recovered",
       r.sd_m3ph AS "Error", array_to_string(r.doubts, ', ') AS "Doubts"
FROM loss_repair(($__timeFrom())::date, ($__timeTo())::date + 1) r LEFT JOIN zone z ON z.zone_id = r.zone_id
WHERE r.zone_id IN (${zone:sqlstring}) ORDER BY r.closed_at DESC LIMIT 50
""",
            {"Closed": 150, "Doubts": 200},
        )
        .span(10)
        .height(9)
        .no_value("no leak was repaired in this time")
        .override_by_name("Recovered", [value("decimals", 1), value("unit", "m3/h")])
        .override_by_name("Error", [value("decimals", 1), value("unit", "m3/h")])
    )
