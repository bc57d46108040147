"""The live terminal view of the demo: clock, readings a second, lag, open alarms, orders, the event feed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

PRIORITY_STYLE = {"urgent": "bold white on red", "high": "bold black on yellow", "medium": "yellow", "low": "cyan"}
PRIORITY_MARK = {"urgent": "1 URGENT", "high": "2 HIGH", "medium": "3 MEDIUM", "low": "4 LOW", "journal": "- journal"}
FEED_LINES = 9


@dataclass(frozen=True, slots=True)
class AlarmLine:
    """One open alarm."""

    priority: str
    state: str
    alarm_type: str
    where: str
    since_at: datetime
    sentence: str
    needs_person: bool


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One work order."""

    label: str
    state: str
    title: str
    who: str
    since_at: datetime | None
    progress: str


@dataclass(frozen=True, slots=True)
class FeedLine:
    """One transition of any lifecycle."""

    at: datetime
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the terminal shows at one moment; times are town times, rates are per wall second."""

    title: str
    town_at: datetime
    speed: float
    published: int
    stored: int
    readings_per_s: float
    lag: timedelta
    quarantined: int
    services: str
    url: str
    alarms: Sequence[AlarmLine] = ()
    orders: Sequence[OrderLine] = ()
    feed: Sequence[FeedLine] = ()


def age(since_at: datetime | None, now_at: datetime) -> str:
    """Return how long ago, short.

    Examples
    --------
    >>> from datetime import UTC
    >>> age(datetime(2026, 1, 1, 0, 0, tzinfo=UTC), datetime(2026, 1, 1, 3, 5, tzinfo=UTC))
    '3 h 05 min'
    """
    if since_at is None:
        return ""
    minutes = max(0, int((now_at - since_at).total_seconds() // 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def render(shot: Snapshot) -> RenderableType:
    """Return the whole view; grey but for what needs a person."""
    return Group(_head(shot), _alarms(shot), _orders(shot), _feed(shot))


def _head(shot: Snapshot) -> Panel:
    grid = Table.grid(expand=True, padding=(0, 2))
    for _ in range(5):
        grid.add_column()
    lag_min = shot.lag.total_seconds() / 60
    grid.add_row(
        Text(f"{shot.town_at:%a %Y-%m-%d %H:%M} UTC", style="bold"),
        f"x{shot.speed:.0f}",
        f"{shot.readings_per_s:,.0f} readings/s",
        f"stored {shot.stored:,} of {shot.published:,}",
        f"lag {lag_min:.0f} town min",
    )
    grid.add_row(Text(shot.url, style="underline"), "", f"quarantine {shot.quarantined}", shot.services, "Ctrl-C ends")
    return Panel(grid, title=shot.title, title_align="left", border_style="grey50")


def _alarms(shot: Snapshot) -> Panel:
    if not shot.alarms:
        return Panel(Text("nothing needs a person", style="grey62"), title="alarms", title_align="left", border_style="grey50")
    table = Table.grid(expand=True, padding=(0, 1))
    for name, ratio in (("priority", 0), ("state", 0), ("what", 0), ("where", 0), ("age", 0), ("why", 1)):
        table.add_column(name, ratio=ratio or None, overflow="fold" if ratio else "ellipsis", no_wrap=not ratio)
    for line in shot.alarms[:8]:
        style = PRIORITY_STYLE.get(line.priority, "") if line.needs_person else "grey62"
        table.add_row(
            Text(PRIORITY_MARK.get(line.priority, line.priority), style=style),
            line.state,
            line.alarm_type,
            line.where,
            age(line.since_at, shot.town_at),
            Text(line.sentence, style="" if line.needs_person else "grey62"),
        )
    return Panel(table, title=f"alarms ({len(shot.alarms)})", title_align="left", border_style="grey50")


def _orders(shot: Snapshot) -> Panel:
    if not shot.orders:
        return Panel(Text("no open orders", style="grey62"), title="work orders", title_align="left", border_style="grey50")
    table = Table.grid(expand=True, padding=(0, 1))
    for ratio in (0, 0, 0, 0, 1):
        table.add_column(ratio=ratio or None, overflow="fold" if ratio else "ellipsis", no_wrap=not ratio)
    for line in shot.orders[:8]:
        table.add_row(
            Text(line.label, style="bold"),
            line.state,
            age(line.since_at, shot.town_at),
            line.who,
            f"{line.title}. {line.progress}".rstrip(),
        )
    return Panel(table, title=f"work orders ({len(shot.orders)})", title_align="left", border_style="grey50")


def _feed(shot: Snapshot) -> Panel:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True, style="grey62")
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for line in list(shot.feed)[-FEED_LINES:]:
        table.add_row(f"{line.at:%d. %H:%M}", line.subject, line.text)
    return Panel(table, title="events", title_align="left", border_style="grey50")
