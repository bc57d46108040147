"""Run a simulated town against a broker: register it, publish its history, live on at an accelerated clock.

The town's clock moves only as fast as the pipeline stores what was published: a slow machine gives a slow town and the same story.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import psycopg

from simulators.stories import Story
from simulators.town import Town
from simulators.world import Publication, World
from underway.app.link import TownLink
from underway.model import MINUTE_US, SECOND_US, LeakSignatures, from_us
from underway.store import registry as registry_store

STEP_US = MINUTE_US
PACK_S = 6 * 3600
HISTORY_CHUNK = 300
BACKLOG_READINGS_MAX = 60_000
LOOK_S = 0.02
STALL_LOOK_S = 1.0
RATE_SMOOTHING = 0.1


def register(conn: psycopg.Connection[Any], town: Town, at: datetime) -> tuple[LeakSignatures, ...]:
    """Write the town's registry, crews and leak signatures; return the signatures with stored channel ids."""
    with conn.transaction():
        stored = registry_store.save_registry(conn, town.registry, town.crews)
        signatures = town.signatures(stored)
        registry_store.save_leak_signatures(conn, signatures, f"nominal EPANET model of {town.network.name}", at)
    return signatures


class TownRunner:
    """Publishes what a town's devices say, and lets its story happen.

    Parameters
    ----------
    world : World
    story : Story
    link : TownLink
        Connected.
    live_us : int
        Where history ends and life begins, microseconds since 1970.
    """

    def __init__(self, world: World, story: Story, link: TownLink, live_us: int) -> None:
        self.world = world
        self.link = link
        self.town_us = live_us
        self.published = 0
        self.readings_per_s = 0.0
        self.speed_measured = 0.0
        self._amount, self._step_s = 0.0, 0.0
        story.schedule(world)

    async def history(self, stored: Callable[[], int], advanced: Callable[[int, int], None]) -> None:
        """Publish what happened before life begins, in packs, as fast as the pipeline stores it.

        Parameters
        ----------
        stored : callable () -> int
            How many readings the pipeline has stored so far; the town never runs more than a bounded backlog ahead of it.
        advanced : callable (reached microseconds, published readings) -> None
            Told about progress.
        """
        stream = self.world.advance(self.town_us, pack_s=PACK_S)
        while chunk := await asyncio.to_thread(_take, stream):
            await self._publish(chunk)
            advanced(chunk[-1].at_us, self.published)
            await wait_until(lambda: self.published - stored() <= BACKLOG_READINGS_MAX)

    async def step(self, until_us: int) -> None:
        """Live on until an instant: what is due happens, devices publish."""
        await self._publish(list(self.world.advance(until_us)))
        self.town_us = until_us

    async def live(
        self, speed: float, behind_s: Callable[[], float], each_step: Callable[[], Awaitable[bool]], behind_s_max: float
    ) -> None:
        """Live at an accelerated clock until `each_step` says that it is enough.

        Parameters
        ----------
        speed : float
            Simulated seconds a wall second, at most.
        behind_s : callable () -> float
            How many simulated seconds the newest stored reading is behind the town.
        each_step : callable () -> awaitable bool
            Called after each simulated minute, and each second while the town waits; True ends the life.
        behind_s_max : float
            The town waits while the pipeline is further behind than this.
        """
        step_wall_s = STEP_US / SECOND_US / speed
        due = time.monotonic()
        while True:
            began, published = time.monotonic(), self.published
            await self.step(self.town_us + STEP_US)
            if await each_step():
                return
            while not await wait_until(lambda: behind_s() <= behind_s_max, STALL_LOOK_S):
                if await each_step():
                    return
            due = max(due + step_wall_s, time.monotonic() - step_wall_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            elapsed = max(time.monotonic() - began, 1e-6)
            # means of amounts and of times, not of their ratios: a few quick steps must not look like speed
            self._amount += RATE_SMOOTHING * (self.published - published - self._amount)
            self._step_s += RATE_SMOOTHING * (elapsed - self._step_s) if self._step_s else elapsed
            self.readings_per_s = self._amount / self._step_s
            self.speed_measured = STEP_US / SECOND_US / self._step_s

    async def _publish(self, chunk: Sequence[Publication]) -> None:
        if chunk:
            await self.link.publish(chunk)
            self.published += sum(p.readings for p in chunk)


async def wait_until(come: Callable[[], bool], timeout_s: float = math.inf) -> bool:
    """Ask `come` (which may block for a moment, in a thread of its own) until it says yes; False when `timeout_s` wall seconds have passed."""
    deadline = time.monotonic() + timeout_s
    while True:
        if await asyncio.to_thread(come):
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_S)


def _take(stream: Iterator[Publication]) -> list[Publication]:
    return list(islice(stream, HISTORY_CHUNK))


def town_at(runner: TownRunner) -> datetime:
    """Return the town's present instant."""
    return from_us(runner.town_us)
