"""The bank: every detector of a registry, fed by channel; what the ingest pipeline talks to."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.contract import BankOutput, merge_outputs
from detectors.lanes import Lane, usable
from detectors.plan import plan_lanes
from detectors.snapshot import pack, unpack
from underway.model import Channel, Hold, InternalError, LeakSignatures, ReadingBatch, Registry

BANK_VERSION = "1"


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """Which lanes took their state back, which begin anew because they are new or were registered differently, which are gone."""

    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


class Bank:
    """All detectors of a registry behind one door.

    Parameters
    ----------
    registry : Registry
        Channels with the ids that the store gave them.
    signatures : sequence of LeakSignatures
        One a zone, where there is a hydraulic model.

    Notes
    -----
    Rows are judged in the order in which they are given; the pipeline gives every batch in event order, live and in a replay. Splitting a batch
    anywhere changes nothing, duplicates change nothing. Bad readings (quality BAD, not finite, more than 10 min from the future) move nothing.

    State: one blob a lane under the lane's key and a fingerprint of what is registered for it. After a change of the registry the lanes that it
    did not touch keep their state and the others begin anew.

    Examples
    --------
    >>> from underway.model import Site
    >>> bank = Bank(Registry(Site("town", "Town", "UTC", 0.0, 0.0)))
    >>> bank.step(ReadingBatch.empty()).findings
    ()
    """

    version = BANK_VERSION

    def __init__(self, registry: Registry, signatures: Sequence[LeakSignatures] = ()) -> None:
        self.registry = registry
        plan = plan_lanes(registry, signatures)
        self._lanes: list[tuple[str, Lane]] = [(key, lane) for key, lane, _ in plan]
        self._fingerprint = {key: _fingerprint(channels) for key, _, channels in plan}
        if len(self._fingerprint) != len(plan):
            raise InternalError(f"expected one lane a key, got {sorted(k for k, _, _ in plan)!r}")
        size = max((c.channel_id for c in registry.channels), default=0) + 1
        # a channel feeds few lanes: rows of `_route` are channels, its columns places, its values lane numbers
        routes: list[list[tuple[int, int]]] = [[] for _ in range(size)]
        for number, (_, lane) in enumerate(self._lanes):
            for column, channel_id in enumerate(lane.detector.channel_ids):
                routes[channel_id].append((number, column))
        width = max((len(r) for r in routes), default=0)
        self._lane_of = np.full((size, width), -1, np.int64)
        self._column_of = np.zeros((size, width), np.int64)
        for channel_id, route in enumerate(routes):
            for place, (number, column) in enumerate(route):
                self._lane_of[channel_id, place], self._column_of[channel_id, place] = number, column
        self.unknown_rows = 0
        self.bad_rows = 0
        self.restored = RestoreReport()

    @property
    def registry_fingerprint(self) -> str:
        """Return a digest of everything in the registry that detectors depend on."""
        return hashlib.sha256("|".join(f"{k}={v}" for k, v in sorted(self._fingerprint.items())).encode()).hexdigest()[:16]

    @property
    def late_rows(self) -> int:
        """Return how many rows came after their grid time was judged, over all lanes."""
        return sum(lane.late_rows for _, lane in self._lanes)

    @property
    def lane_keys(self) -> tuple[str, ...]:
        """Return the keys of all lanes."""
        return tuple(key for key, _ in self._lanes)

    def step(self, batch: ReadingBatch) -> BankOutput:
        """Judge `batch`; an unregistered channel is counted and otherwise ignored."""
        known = (batch.channel_id >= 0) & (batch.channel_id < len(self._lane_of))
        good = usable(batch)
        self.unknown_rows += int((~known).sum())
        self.bad_rows += int((~good).sum())
        keep = known & good
        if not keep.any():
            return merge_outputs(())
        rows = batch if keep.all() else batch.take(keep)
        lane_of, column_of = self._lane_of[rows.channel_id], self._column_of[rows.channel_id]
        place_row, place = np.nonzero(lane_of >= 0)
        number = lane_of[place_row, place]
        order = np.argsort(number, kind="stable")
        place_row, place, number = place_row[order], place[order], number[order]
        edges = np.flatnonzero(np.r_[True, number[1:] != number[:-1], True]) if len(number) else np.zeros(1, np.int64)
        outputs = []
        for start, end in itertools.pairwise(edges.tolist()):
            index = place_row[start:end]
            outputs.append(self._lanes[int(number[start])][1].step(rows.take(index), column_of[index, place[start:end]]))
        return merge_outputs(outputs)

    def tick(self, now_us: int) -> BankOutput:
        """Take notice of the time; only silence is judged here."""
        return merge_outputs([lane.tick(now_us) for _, lane in self._lanes])

    def hold(self, holds: Sequence[Hold]) -> None:
        """Tell detectors of holds and of their release, at a batch boundary; telling twice changes nothing."""
        for hold in holds:
            for _, lane in self._lanes:
                lane.hold(hold)

    def state(self) -> bytes:
        """Return the state of every lane."""
        return pack({"bank": BANK_VERSION, "lanes": {key: [self._fingerprint[key], lane.state()] for key, lane in self._lanes}})

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned; lanes that are new or were registered differently begin anew, see `restored`.

        Raises
        ------
        InternalError
            When `state` is not a state of a bank of this version.
        """
        s = unpack(state)
        if s.get("bank") != BANK_VERSION or not isinstance(s.get("lanes"), dict):
            raise InternalError(f"expected the state of a bank of version {BANK_VERSION!r}, got {s.get('bank')!r}")
        saved, kept, fresh = dict(s["lanes"]), [], []
        for key, lane in self._lanes:
            fingerprint, blob = saved.pop(key, ("", b""))
            if fingerprint == self._fingerprint[key]:
                lane.restore(blob)
                kept.append(key)
            else:
                fresh.append(key)
        self.restored = RestoreReport(tuple(kept), tuple(fresh), tuple(saved))


def _fingerprint(channels: Sequence[Channel]) -> str:
    text = ";".join(
        f"{c.channel_id},{c.device_id},{c.role},{c.quantity},{c.zone_id},{c.also_zone_id},{c.asset_id},{c.sign},{c.interval_s},{c.resolution}"
        for c in channels
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
