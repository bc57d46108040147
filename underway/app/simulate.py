"""``underway simulate``: publish a simulated town to any broker, as its devices would."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from simulators.stories import Story, plan_story
from simulators.town import build_town
from simulators.world import World
from underway.app.link import TownLink
from underway.app.town import TownRunner, register
from underway.model import MINUTE_US, from_us, to_us
from underway.store.connect import connect


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What the command line asked for; see ``underway simulate --help``."""

    mqtt_url: str
    seed: int
    story: str
    speed: float
    history_days: int
    minutes: float | None
    network: str
    register_url: str


def run_simulate(options: SimulateOptions, *, quiet: bool) -> dict[str, Any]:
    """Publish until the minutes are over or a person interrupts; return what was published.

    Live begins at the present full five minutes of the system's clock: a real installation sees devices of today. Faster than real time
    the town's clock leaves the system's behind; then the services must follow the town's clock too (UNDERWAY_CLOCK=town).

    Raises
    ------
    StoreUnavailable
        When the broker or the database to register in cannot be reached.
    """
    console = Console(stderr=True, quiet=quiet)
    now_at = datetime.now(UTC)
    live_at = now_at.replace(minute=now_at.minute - now_at.minute % 5, second=0, microsecond=0)
    midnight_at = live_at.replace(hour=0, minute=0)
    with tempfile.TemporaryDirectory(prefix="underway-simulate-") as folder:
        town = build_town(options.seed, options.network, start_at=midnight_at - timedelta(days=options.history_days), folder=Path(folder))
        signatures = None
        if options.register_url:
            with connect(options.register_url, application_name="underway-simulate") as conn:
                signatures = register(conn, town, now_at)
            console.print(
                f"registered {len(town.registry.devices)} devices with {len(town.registry.channels)} channels in site '{town.site_id}'"
            )
        story = plan_story(town, options.story, live_at, signatures)
        with World(town) as world:
            return asyncio.run(_publish(options, world, story, to_us(live_at), console))


async def _publish(options: SimulateOptions, world: World, story: Story, live_us: int, console: Console) -> dict[str, Any]:
    end_us = live_us + int(options.minutes * MINUTE_US) if options.minutes is not None else None
    async with TownLink(options.mqtt_url) as link:
        runner = TownRunner(world, story, link, live_us)
        try:
            await runner.history(lambda: runner.published, lambda _us, count: console.print(f"history: {count:,} readings", end="\r"))
            console.print(f"live at {options.speed:g} times real time; Ctrl-C ends", highlight=False)

            async def each_step() -> bool:
                console.print(
                    f"{from_us(runner.town_us):%Y-%m-%d %H:%M} UTC, {runner.published:,} readings published", end="\r", highlight=False
                )
                return end_us is not None and runner.town_us >= end_us

            await runner.live(options.speed, lambda: 0.0, each_step, behind_s_max=1.0)
        except asyncio.CancelledError:
            console.print("stopped")
        return {
            "site": world.town.site_id,
            "seed": options.seed,
            "story": options.story,
            "messages": world.published_messages,
            "readings": runner.published,
            "until": from_us(runner.town_us).isoformat(),
            "faults": [{"kind": f.kind.value, "asset": f.asset_id, "size": f.size} for f in world.faults()],
        }
