"""Detectors that have learned: a bank is fed the town's history and handed to ingest as its checkpoint, through the product's own functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from detectors.bank import Bank
from underway.app.bench.town import ROUND_US, Town, marked_history
from underway.model import DAY_US
from underway.store import telemetry
from underway.store.registry import load_registry, save_registry
from underway.store.telemetry import Checkpoint

LEARN_ROUNDS = 12 * DAY_US // ROUND_US
"""Twelve days: zone-inflow speaks after ten, two of them of a weekend."""
BLOCK_READINGS = 24_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A bank with what it cost to teach it."""

    bank: Bank
    rounds: int
    readings: int
    findings: int
    seconds: float


def train(town: Town, first_us: int, rounds: int, deadline_s: float, say: Say) -> Trained:
    """Return a bank that has judged rounds 0 .. `rounds - 1` of a town and the history of its marked channels; fewer rounds at the deadline.

    Parameters
    ----------
    town : Town
        With stored ids.
    first_us : int
        Instant of round 0.
    rounds : int
    deadline_s : float
        ``time.perf_counter`` at which to stop.
    say : callable
        Told how far it is.
    """
    bank, ids = Bank(town.registry), town.channel_ids
    block = max(1, BLOCK_READINGS // town.size)
    began_s, readings, findings, done = time.perf_counter(), 0, 0, 0
    if town.marked:
        history = marked_history(town, first_us + (rounds - 1) * ROUND_US).readings(ids)
        findings += len(bank.step(history).findings)
        readings += len(history)
    while done < rounds and time.perf_counter() < deadline_s:
        count = min(block, rounds - done)
        batch = town.rounds(first_us, done, count).readings(ids)
        findings += len(bank.step(batch).findings)
        readings += len(batch)
        done += count
        if done // block % 16 == 0:
            say(f"detectors learn: {done / rounds:.0%} of {rounds * ROUND_US / DAY_US:.1f} days")
    return Trained(bank, done, readings, findings, time.perf_counter() - began_s)


def register(conn: psycopg.Connection, town: Town) -> Town:
    """Save the registry of a town; return the town with the ids of the store, in the store's order."""
    save_registry(conn, town.registry)
    stored = load_registry(conn, town.registry.site.site_id)
    by_name = {(c.device_id, c.name): c for c in stored.channels}
    channels = tuple(by_name[c.device_id, c.name] for c in town.registry.channels)
    return town.registered(type(stored)(stored.site, stored.zones, stored.assets, stored.devices, channels))


def save_bank(conn: psycopg.Connection, site_id: str, bank: Bank) -> int:
    """Store the state of a bank as the checkpoint from which ingest starts; return its size in bytes."""
    now_at, size = datetime.now(UTC), 0
    with conn.transaction():
        for part, state in _states(bank):
            telemetry.save_checkpoint(conn, Checkpoint(site_id, 0, now_at, bank.version, state, **part))
            size += len(state)
    return size


def _states(bank: Bank) -> list[tuple[dict[str, str], bytes]]:
    parts = getattr(bank, "parts", None)
    if parts is None:
        return [({}, bank.state())]
    return [({"part": name}, bank.part_state(name)) for name in parts()]
