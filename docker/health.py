"""Exit 0 when one service of this container is well: ``health.py web`` or ``health.py ingest|workorders``.

The web server is asked over HTTP; a loop is well when the heartbeat it writes into ``service_status`` is fresh.
"""

from __future__ import annotations

import os
import sys
import urllib.request

import psycopg

HEARTBEAT_S_MAX = 60
TIMEOUT_S = 4


def web() -> str:
    """Return what is wrong with the web server, empty when nothing is."""
    port = os.environ.get("UNDERWAY_WEB_PORT", "8080")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S) as answer:
            return "" if answer.status == 200 else f"/readyz must answer 200, got {answer.status}"
    except OSError as error:
        return f"/readyz must answer on port {port}: {error}"


def heartbeat(service: str) -> str:
    """Return what is wrong with the heartbeat of a service, empty when nothing is."""
    try:
        with psycopg.connect(os.environ["UNDERWAY_DATABASE_URL"], connect_timeout=TIMEOUT_S) as conn:
            row = conn.execute(
                "SELECT extract(epoch FROM clock_timestamp() - updated_at)::float FROM service_status WHERE service = %s", (service,)
            ).fetchone()
    except psycopg.Error as error:
        return f"the database must answer: {type(error).__name__}"
    if row is None:
        return f"'{service}' has not written a heartbeat yet"
    return "" if row[0] < HEARTBEAT_S_MAX else f"the heartbeat of '{service}' must be younger than {HEARTBEAT_S_MAX} s, got {row[0]:.0f} s"


if __name__ == "__main__":
    problem = web() if sys.argv[1:] == ["web"] else heartbeat(sys.argv[1])
    if problem:
        print(problem, file=sys.stderr)
    raise SystemExit(1 if problem else 0)
