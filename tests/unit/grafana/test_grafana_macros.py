from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafana.macros import MacroError, Scope, expand, interval_seconds, interval_text, sql_string

FROM_AT = datetime(2026, 3, 1, tzinfo=UTC)
SCOPE = Scope(FROM_AT, FROM_AT + timedelta(days=1), {"zone": ["z1", "o'b"], "band": ["3"]})


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        pytest.param("$__timeFilter(at)", "at BETWEEN '2026-03-01T00:00:00.000000Z' AND '2026-03-02T00:00:00.000000Z'", id="time filter"),
        pytest.param("$__timeFrom()::timestamptz", "'2026-03-01T00:00:00.000000Z'::timestamptz", id="time from"),
        pytest.param("$__timeTo()", "'2026-03-02T00:00:00.000000Z'", id="time to"),
        pytest.param("$__timeGroup(e.at, '5m')", "floor(extract(epoch from e.at)/300)*300", id="time group"),
        pytest.param("$__timeGroupAlias(at, 1h)", 'floor(extract(epoch from at)/3600)*3600 AS "time"', id="time group alias"),
        pytest.param("$__timeGroup(at, $__interval)", "floor(extract(epoch from at)/120)*120", id="interval inside a macro"),
        pytest.param("$__interval_ms", "120000", id="interval in milliseconds"),
        pytest.param("$__time(at)", 'at AS "time"', id="time"),
        pytest.param("$__unixEpochFilter(t)", "t >= 1772323200 AND t <= 1772409600", id="epoch filter"),
        pytest.param("x > $band * s", "x > 3 * s", id="plain variable"),
        pytest.param("x > ${band} * s", "x > 3 * s", id="braced variable"),
        pytest.param("zone IN (${zone:sqlstring})", "zone IN ('z1','o''b')", id="sqlstring doubles quotes"),
        pytest.param("a LIKE 'zone/%/inflow' AND cost = 5", "a LIKE 'zone/%/inflow' AND cost = 5", id="nothing to expand"),
    ],
)
def test_expand_query_becomes_what_grafana_sends(sql: str, expected: str) -> None:
    assert expand(sql, SCOPE) == expected


def test_expand_timescale_groups_with_time_bucket() -> None:
    scope = Scope(FROM_AT, FROM_AT + timedelta(hours=1), timescale=True)
    assert expand("$__timeGroupAlias(at, '5m')", scope) == "time_bucket('300.000s',at) AS \"time\""


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        pytest.param("$__timeBetween(at)", r"a macro must be one of \$__time, .*, got '\$__timeBetween'", id="unknown macro"),
        pytest.param("$__timeGroup(at)", r"'\$__timeGroup' needs 2 arguments, got '\$__timeGroup\(at\)'", id="too few arguments"),
        pytest.param("$__timeGroup(at, soon)", "an interval must be a number and ms, s, m, h, d or w, got 'soon'", id="no interval"),
        pytest.param("$site", "variable 'site' must have a value, got None; known: band, zone", id="unknown variable"),
        pytest.param("${zone:glob}", "variable 'zone' must be written in one of the formats .*, got 'glob'", id="unknown format"),
    ],
)
def test_expand_what_grafana_would_not_expand_is_refused(sql: str, message: str) -> None:
    with pytest.raises(MacroError, match=f"^{message}$"):
        expand(sql, SCOPE)


@pytest.mark.parametrize(
    ("hours", "minimum_s", "seconds"), [(1, 1, 5), (24, 1, 120), (24, 300, 300), (24 * 14, 1, 1800), (24 * 4000, 1, 604_800)]
)
def test_scope_interval_gives_about_a_thousand_points(hours: int, minimum_s: float, seconds: float) -> None:
    assert Scope(FROM_AT, FROM_AT + timedelta(hours=hours), interval_s_min=minimum_s).interval_s == seconds


@given(st.integers(1, 400_000))
def test_interval_text_reads_back(seconds: int) -> None:
    assert interval_seconds(interval_text(float(seconds))) == seconds


@given(st.text(st.characters(exclude_characters="\x00"), max_size=30))
def test_sql_string_holds_no_lone_quote(text: str) -> None:
    inner = sql_string(text)[1:-1]
    assert "'" not in inner.replace("''", "")
    assert inner.replace("''", "'") == text
