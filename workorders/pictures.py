"""Draw ``docs/lifecycles.md`` from the tables: ``python -m workorders.pictures > docs/lifecycles.md``."""

from __future__ import annotations

import sys
from typing import Any

from workorders.alarms import ALARM_TABLE
from workorders.incidents import INCIDENT_TABLE
from workorders.lifecycle import Table, markdown_table, mermaid
from workorders.orders import ORDER_TABLE

HEAD = """# Lifecycles

Generated from the tables in `workorders/` by `python -m workorders.pictures > docs/lifecycles.md`; a test compares the two. Do not edit.

A move that is not in the table is refused with the list of what is allowed. Where a row names guards, all of them are checked and every unmet one
is reported. Every move is appended to an event log with actor, time and reason, and the log alone rebuilds the row.
"""
NOTES = {
    "alarm": """Three facts are stored (condition, acknowledgement, suppression), the ISA-18.2 state is derived from them. A condition `unknown`
behaves as the last known one and can never clear. NORM ends an occurrence: the row is closed, the next raise opens another.

Who causes what: detectors raise, update and clear; operators acknowledge, shelve and unshelve; rules suppress and release; engineers take
out of service and return to it; a watchdog says that data stopped.""",
    "incident": """Alarms of one kind in the same zone (or on the same asset) within a window have one incident. It follows its orders and
alarms.""",
    "work order": """Anybody may act who has the role that the guard names; `system` is underway itself. A crew acts only on the order that is
assigned to it.""",
}


def section(table: Table[Any, Any, Any]) -> str:
    """Return one lifecycle as Markdown: a picture and all rows."""
    title = table.name.capitalize()
    return f"## {title}\n\n{NOTES[table.name]}\n\n```mermaid\n{mermaid(table)}\n```\n\n{markdown_table(table)}\n"


def render() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(section(table) for table in (ALARM_TABLE, INCIDENT_TABLE, ORDER_TABLE))])


if __name__ == "__main__":
    sys.stdout.write(render())
