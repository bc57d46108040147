"""Detectors that have learned, handed to ingest as its checkpoint.

A town has four kinds of zone. A bank judges the whole history of one zone of each kind, and what its detectors then know stands for all zones of the
kind: the state of a lane names no zone and no channel. Detectors that look at every channel on its own judge the last days of all channels. So full
state of a hundred thousand channels takes seconds, and is what judging made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from detectors.bank import Bank
from detectors.snapshot import pack, unpack
from detectors.water.zone_inflow import ZoneInflow
from underway.app.bench.town import KINDS_OF_ZONE, ROUND_US, Town, marked_history
from underway.model import DAY_US, InternalError
from underway.store import telemetry
from underway.store.registry import load_registry, save_registry
from underway.store.telemetry import Checkpoint

LEARN_ROUNDS = 12 * DAY_US // ROUND_US
"""Twelve days: zone-inflow speaks after ten, two of them of a weekend; every slot of a day of each kind is seen."""
ROW_ROUNDS = 4 * DAY_US // ROUND_US
"""Four days: flat-line speaks after three."""
BLOCK_READINGS = 24_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A bank with what it cost to teach it.

    Attributes
    ----------
    rounds : int
        Rounds of history that it knows: the next reading is of round number `rounds`.
    complete : bool
        Whether it judged all of the history that was asked for.
    readings, seconds
        What was judged for it, and how long that took.
    """

    bank: Bank
    rounds: int
    complete: bool
    readings: int
    findings: int
    seconds: float


def train(town: Town, first_us: int, row_rounds: int, deadline_s: float, say: Say) -> Trained:
    """Return a bank that knows rounds 0 .. `LEARN_ROUNDS - 1` of a town, and the history of its marked channels.

    Parameters
    ----------
    town : Town
        With stored ids.
    first_us : int
        Instant of round 0.
    row_rounds : int
        How many of the last rounds are judged by the detectors that look at every channel on its own.
    deadline_s : float
        ``time.perf_counter`` at which to stop: the bank then knows less, and `Trained.complete` is False.
    say : callable
        Told how far it is.
    """
    began_s = time.perf_counter()
    bank = Bank(town.registry)
    zones = town.registry.zones
    kinds = town.quarter(min(KINDS_OF_ZONE, len(zones)))
    by_zone = Bank(kinds.registry)
    zone_rounds, readings, findings = _judge(by_zone, kinds, first_us, 0, deadline_s, say, "zones")
    others = [key for key in bank.lane_keys if key not in {ZoneInflow.key_of(zone) for zone in zones}]
    by_channel = Bank(town.registry, lane_keys=others)
    if town.marked:
        history = marked_history(town, first_us + (LEARN_ROUNDS - 1) * ROUND_US).readings(town.channel_ids)
        findings += len(by_channel.step(history).findings)
        readings += len(history)
    row_done, more, found = _judge(by_channel, town, first_us, LEARN_ROUNDS - row_rounds, deadline_s, say, "channels")
    learned = _lanes(by_zone)
    known = _lanes(by_channel)
    for number, zone in enumerate(zones):
        known[ZoneInflow.key_of(zone)] = learned[ZoneInflow.key_of(zones[number % KINDS_OF_ZONE])]
    _hand_over(bank, known)
    complete = zone_rounds == row_done == LEARN_ROUNDS
    return Trained(bank, LEARN_ROUNDS, complete, readings + more, findings + found, time.perf_counter() - began_s)


def _judge(bank: Bank, town: Town, first_us: int, begin: int, deadline_s: float, say: Say, what: str) -> tuple[int, int, int]:
    """Let a bank judge rounds `begin` .. `LEARN_ROUNDS - 1`; return the round reached, readings and findings."""
    block = max(1, BLOCK_READINGS // town.size)
    done, readings, findings, told = begin, 0, 0, time.perf_counter()
    while done < LEARN_ROUNDS and time.perf_counter() < deadline_s:
        batch = town.rounds(first_us, done, min(block, LEARN_ROUNDS - done)).readings(town.channel_ids)
        findings += len(bank.step(batch).findings)
        readings += len(batch)
        done += min(block, LEARN_ROUNDS - done)
        if time.perf_counter() - told > 5.0:
            told = time.perf_counter()
            say(f"detectors learn their {what}: {(done - begin) / (LEARN_ROUNDS - begin):.0%}")
    return done, readings, findings


def _lanes(bank: Bank) -> dict[str, bytes]:
    """Return the state of every lane of a bank by key."""
    return {key: blob for name in bank.parts() for key, (_, blob) in unpack(bank.part_state(name))["lanes"].items()}


def _hand_over(bank: Bank, known: dict[str, bytes]) -> None:
    """Give a fresh bank the state of its lanes.

    Raises
    ------
    InternalError
        When a lane did not take it.
    """
    for name in bank.parts():
        state = unpack(bank.part_state(name))
        lanes = {key: [fingerprint, known[key]] for key, (fingerprint, _) in state["lanes"].items()}
        bank.restore_part(name, pack({**state, "lanes": lanes}))
    if bank.restored.fresh or bank.restored.gone:
        raise InternalError(f"expected every lane to take what it was given, got {len(bank.restored.fresh)} that begin anew")


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
        for name in bank.parts():
            state = bank.part_state(name)
            telemetry.save_checkpoint(conn, Checkpoint(site_id, 0, now_at, bank.version, state, name))
            size += len(state)
    return size
