"""The bank: every detector of a registry, fed by channel; what the ingest pipeline talks to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectors.contract import BankOutput, BoolArray, FrameDetector, IntArray, RowDetector, merge_outputs
from detectors.grid import GridLanes, GridRows
from detectors.lanes import BEHIND, DirectLane, ReorderLane, RowLane, usable
from detectors.parts import STATE_BYTES_TARGET, PartPlan
from detectors.plan import Planned, plan_lanes
from detectors.sensor.no_data import NoData
from detectors.snapshot import pack, unpack
from detectors.water.leak_committee import DigRules
from underway.model import Channel, Hold, InternalError, LeakSignatures, NetworkModel, Operation, ReadingBatch, Registry

BANK_VERSION = "2"


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """Which lanes took their state back, which begin anew because they are new or were registered differently, which are gone."""

    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(slots=True)
class _Lane:
    """One detector with its lane: a lane of its own, or a number among the grid lanes of a feed."""

    key: str
    channels: tuple[Channel, ...]
    feed: int
    number: int
    fingerprint: str


@dataclass(slots=True)
class _Feed:
    """Lanes that are fed together, and which cell of theirs each channel is; a boundary meter is a cell of two zones."""

    lanes: GridLanes | RowLane
    keys: tuple[str, ...]
    lane_of_cell: IntArray | None
    cell_of: tuple[IntArray, ...] = ()
    on: BoolArray = field(default_factory=lambda: np.empty(0, np.bool_))

    def places(self, channel_id: IntArray, all_on: bool) -> tuple[IntArray, IntArray]:
        """Return (rows, cells) of a batch for these lanes, in order of arrival."""
        if len(self.cell_of) == 1:
            cell = self.cell_of[0][channel_id]
            row = np.flatnonzero(cell >= 0)
            cell = cell[row] if len(row) != len(cell) else cell
        else:
            table = np.stack([column[channel_id] for column in self.cell_of], axis=1)
            row, place = np.nonzero(table >= 0)
            cell = table[row, place]
        if not all_on and self.lane_of_cell is not None:
            keep = self.on[self.lane_of_cell[cell]]
            row, cell = row[keep], cell[keep]
        return row, cell


class Bank:
    """All detectors of a registry behind one door.

    Parameters
    ----------
    registry : Registry
        Channels with the ids that the store gave them.
    signatures : sequence of LeakSignatures
        One a zone, where there is a hydraulic model.
    lane_keys : collection of str, optional
        Only these lanes; see `only`.
    channel_ids : collection of int, optional
        Only these channels for detectors that look at every channel on its own.
    models : sequence of NetworkModel
        Hydraulic models of the site, where the utility has them.
    digs : DigRules, optional
        When a crew is sent for a leak.

    Notes
    -----
    Rows are judged in the order in which they are given; the pipeline gives every batch in event order, live and in a replay. Splitting a batch
    anywhere changes nothing, duplicates change nothing. Bad readings (quality BAD, not finite, more than 10 min from the future) move nothing.

    State: one blob a lane under the lane's key and a fingerprint of what is registered for it, in parts of a few megabytes. Parts are saved one at a
    time, each with its own last batch; a replay then steps only the parts that do not contain a batch yet (``step(batch, parts)``). A lane stays in
    the part in which it was stored. After a change of the registry the lanes that it did not touch keep their state, flat-line and no-data keep what
    they know of the channels and devices that are still there, and the others begin anew.

    Examples
    --------
    >>> from underway.model import Site
    >>> bank = Bank(Registry(Site("town", "Town", "UTC", 0.0, 0.0)))
    >>> bank.step(ReadingBatch.empty()).findings, bank.parts()
    ((), ())
    """

    version = BANK_VERSION

    def __init__(
        self,
        registry: Registry,
        signatures: Sequence[LeakSignatures] = (),
        lane_keys: Collection[str] | None = None,
        channel_ids: Collection[int] | None = None,
        models: Sequence[NetworkModel] = (),
        digs: DigRules | None = None,
    ) -> None:
        self.registry = registry
        self._signatures, self._models, self._digs = tuple(signatures), tuple(models), digs
        plan = plan_lanes(registry, signatures, lane_keys, channel_ids, models, digs)
        if len({p.key for p in plan}) != len(plan):
            raise InternalError(f"expected one lane a key, got {sorted(p.key for p in plan)!r}")
        self._size = max((c.channel_id for c in registry.channels), default=0) + 1
        text: dict[int, str] = {}
        self._feeds: list[_Feed] = []
        self._lanes: dict[str, _Lane] = {}
        by_grid: dict[int, list[Planned]] = {}
        for p in plan:
            if p.frames is not None:
                by_grid.setdefault(p.frames.grid_us, []).append(p)
        for grid_us, group in by_grid.items():
            lanes = GridLanes(grid_us, [(p.frames, p.channels) for p in group if p.frames is not None])
            self._add(lanes, group, lanes.lane_of_cell, text)
        for p in plan:
            if p.rows is not None:
                lane = DirectLane(p.rows) if isinstance(p.rows, NoData) else ReorderLane(p.rows, p.channels)
                self._add(lane, [p], None, text)
        self._plan = PartPlan([(key, self._detector(lane).state_bytes_max) for key, lane in self._lanes.items()], STATE_BYTES_TARGET)
        self.unknown_rows = 0
        self.bad_rows = 0
        self.restored = RestoreReport(fresh=tuple(self._lanes))

    def _add(self, lanes: GridLanes | RowLane, group: Sequence[Planned], lane_of_cell: IntArray | None, text: dict[int, str]) -> None:
        number = len(self._feeds)
        ids = np.array([c.channel_id for p in group for c in p.channels], np.int64)
        left = np.arange(len(ids))
        columns: list[IntArray] = []
        while len(left) or not columns:
            # a channel that is a cell of several lanes takes a column more
            _, first = np.unique(ids[left], return_index=True)
            column = np.full(self._size, -1, np.int32)
            column[ids[left[first]]] = left[first]
            columns.append(column)
            left = np.delete(left, first)
        self._feeds.append(_Feed(lanes, tuple(p.key for p in group), lane_of_cell, tuple(columns), np.ones(len(group), np.bool_)))
        for i, p in enumerate(group):
            self._lanes[p.key] = _Lane(p.key, p.channels, number, i, _fingerprint(p.channels, text))

    def only(self, lane_keys: Collection[str], channel_ids: Collection[int] | None = None) -> Bank:
        """Return a fresh bank with some of the lanes, to judge a window of stored readings again.

        Parameters
        ----------
        lane_keys : collection of str
            As `late_lanes` gives them.
        channel_ids : collection of int, optional
            Channels of the late rows, for detectors that look at every channel on its own; all when left out.
        """
        return Bank(self.registry, self._signatures, lane_keys, channel_ids, self._models, self._digs)

    # -- what it has ----------------------------------------------------------------------------------------------------------

    @property
    def registry_fingerprint(self) -> str:
        """Return a digest of everything in the registry that detectors depend on."""
        return hashlib.sha256("|".join(f"{k}={v.fingerprint}" for k, v in sorted(self._lanes.items())).encode()).hexdigest()[:16]

    @property
    def late_rows(self) -> int:
        """Return how many rows came too late, over all lanes."""
        return sum(int(np.sum(feed.lanes.late_rows)) for feed in self._feeds)

    @property
    def crowded_rows(self) -> int:
        """Return how many rows were not kept because their grid time had enough of their channel, over all lanes."""
        return sum(int(np.sum(feed.lanes.crowded_rows)) for feed in self._feeds if isinstance(feed.lanes, GridLanes))

    @property
    def waiting_rows(self) -> int:
        """Return how many rows wait in reorder windows for the gap before them."""
        return sum(feed.lanes.waiting_rows for feed in self._feeds if isinstance(feed.lanes, ReorderLane))

    @property
    def lane_keys(self) -> tuple[str, ...]:
        """Return the keys of all lanes."""
        return tuple(self._lanes)

    def lane_channels(self, lane_key: str) -> tuple[int, ...]:
        """Return the channels that feed a lane: what has to be read to judge a window of it again (flat-line, roughness: the late ones suffice)."""
        lane = self._lanes.get(lane_key)
        return () if lane is None else tuple(c.channel_id for c in lane.channels)

    def warm_up_us(self, lane_key: str) -> int:
        """Return how much history a lane needs before a window to have learned, microseconds; 0 where late readings cannot matter (no-data)."""
        return self._detector(self._lanes[lane_key]).warm_up_us

    # -- judging --------------------------------------------------------------------------------------------------------------

    def step(self, batch: ReadingBatch, parts: Collection[str] | None = None) -> BankOutput:
        """Judge `batch`; an unregistered channel is counted and otherwise ignored.

        Parameters
        ----------
        batch : ReadingBatch
            In event order.
        parts : collection of str, optional
            Only the lanes of these parts take notice: in a replay, those that do not contain the batch yet. All when left out.
        """
        rows = self._seen(batch, count=True)
        if not len(rows):
            return merge_outputs(())
        all_on = self._turn_on(parts)
        behind = (rows.flags & BEHIND) != 0
        outputs = []
        for feed in self._feeds:
            if not (all_on or feed.on.any()):
                continue
            index, cell = feed.places(rows.channel_id, all_on)
            if not len(cell):
                continue
            at, received, value, late = rows.observed_us, rows.received_us, rows.value, behind
            if len(index) != len(rows) or len(feed.cell_of) > 1:
                at, received, value, late = at[index], received[index], value[index], behind[index]
            if isinstance(feed.lanes, GridLanes):
                outputs.append(feed.lanes.step(GridRows(cell, at, received, value, late)))
            else:
                outputs.append(feed.lanes.step(cell, at, received, value, late))
        return merge_outputs(outputs)

    def late(self, batch: ReadingBatch) -> BoolArray:
        """Return which rows of `batch` would come too late for at least one lane, shape (n,); changes nothing.

        Too late: the grid time is judged, or the place of the row in its channel is passed. A row that was seen before looks the same.
        """
        late = np.zeros(len(batch), np.bool_)
        for _, rows in self.late_lanes(batch):
            late[rows] = True
        return late

    def late_lanes(self, batch: ReadingBatch) -> list[tuple[str, IntArray]]:
        """Return (lane key, rows of `batch`) of every lane for which some rows would come too late; changes nothing."""
        known = self._usable_rows(batch)
        seen = np.flatnonzero(known)
        rows = batch if len(seen) == len(batch) else batch.take(seen)
        if not len(rows):
            return []
        behind = (rows.flags & BEHIND) != 0
        found: list[tuple[str, IntArray]] = []
        for feed in self._feeds:
            if isinstance(feed.lanes, DirectLane):
                continue
            index, cell = feed.places(rows.channel_id, True)
            if not len(cell):
                continue
            at, received = rows.observed_us[index], rows.received_us[index]
            if isinstance(feed.lanes, GridLanes):
                late = feed.lanes.late(GridRows(cell, at, received, rows.value[index], behind[index]))
                if late.any():
                    lane = feed.lanes.lane_of_cell[cell[late]]
                    found += [(feed.keys[i], seen[index[late][lane == i]]) for i in np.unique(lane).tolist()]
            else:
                late = feed.lanes.late(cell, at, received)
                if late.any():
                    found.append((feed.keys[0], seen[index[late]]))
        return found

    def tick(self, now_us: int) -> BankOutput:
        """Take notice of the time: silence is judged, and reorder windows give out what has waited long enough."""
        return merge_outputs([feed.lanes.tick(now_us) for feed in self._feeds if not isinstance(feed.lanes, GridLanes)])

    def hold(self, holds: Sequence[Hold], parts: Collection[str] | None = None) -> None:
        """Tell detectors of holds and of their release, at a batch boundary; telling twice changes nothing. `parts` as for `step`."""
        self._turn_on(parts)
        for feed in self._feeds:
            for hold in holds:
                if isinstance(feed.lanes, GridLanes):
                    for number in np.flatnonzero(feed.on).tolist():
                        feed.lanes.hold(number, hold)
                elif feed.on[0]:
                    feed.lanes.hold(hold)

    def operate(self, operations: Sequence[Operation], parts: Collection[str] | None = None) -> None:
        """Tell detectors of known operations and of their withdrawal, at a batch boundary; telling twice changes nothing. `parts` as for `step`."""
        self._turn_on(parts)
        for feed in self._feeds:
            if isinstance(feed.lanes, GridLanes):
                for operation in operations:
                    for number in np.flatnonzero(feed.on).tolist():
                        feed.lanes.operate(number, operation)

    def _usable_rows(self, batch: ReadingBatch) -> BoolArray:
        return usable(batch) & (batch.channel_id >= 0) & (batch.channel_id < self._size)

    def _seen(self, batch: ReadingBatch, count: bool = False) -> ReadingBatch:
        known = (batch.channel_id >= 0) & (batch.channel_id < self._size)
        good = usable(batch)
        keep = known & good
        if count:
            self.unknown_rows += len(batch) - int(known.sum())
            self.bad_rows += len(batch) - int(good.sum())
        return batch if keep.all() else batch.take(keep)

    def _turn_on(self, parts: Collection[str] | None) -> bool:
        """Note which lanes take notice; return whether all do."""
        if parts is None or frozenset(parts) >= frozenset(self._plan.names):
            for feed in self._feeds:
                feed.on[:] = True
            return True
        keys = {key for name in parts for key in self._plan.keys(name)}
        for feed in self._feeds:
            feed.on[:] = [key in keys for key in feed.keys]
        return False

    # -- state ----------------------------------------------------------------------------------------------------------------

    def parts(self) -> tuple[str, ...]:
        """Return the names of the parts in which the state is saved; each holds some lanes, about `STATE_BYTES_TARGET` of state at most."""
        return self._plan.names

    def tick_parts(self) -> tuple[str, ...]:
        """Return the parts whose state a `tick` changes in a way that readings alone do not: those of lanes that judge silence."""
        silent = {lane.key for lane in self._lanes.values() if isinstance(self._feeds[lane.feed].lanes, DirectLane)}
        return tuple(name for name in self._plan.names if silent.intersection(self._plan.keys(name)))

    def facts(self) -> dict[str, Any]:
        """Return what people want to see: plain values."""
        return {
            "lanes": len(self._lanes),
            "parts": len(self._plan.names),
            "waiting": self.waiting_rows,
            "late_rows": self.late_rows,
            "crowded_rows": self.crowded_rows,
            "crowded_operations": sum(feed.lanes.crowded_operations for feed in self._feeds if isinstance(feed.lanes, GridLanes)),
            "bad_rows": self.bad_rows,
            "unknown_rows": self.unknown_rows,
            "begun_anew": len(self.restored.fresh),
        }

    def part_state(self, name: str) -> bytes:
        """Return the state of the lanes of one part.

        Raises
        ------
        InternalError
            When there is no such part.
        """
        return self._pack(self._plan.keys(name))

    def restore_part(self, name: str, state: bytes) -> RestoreReport:
        """Take back what `part_state` returned, before the first step; its lanes belong to part `name` from now on.

        Lanes that were registered differently then begin anew (in which part, `parts` says after the last part is restored).

        Raises
        ------
        InternalError
            When `state` is not a state of a bank of this version.
        """
        kept, gone = [], []
        for key, (fingerprint, blob) in self._unpack(state).items():
            lane = self._lanes.get(key)
            if lane is not None and self._restore(lane, fingerprint, blob):
                kept.append(key)
            else:
                gone.append(key)
        self._plan.keep(name, kept)
        before = self.restored
        again = frozenset(kept)
        self.restored = RestoreReport(
            (*before.kept, *kept),
            tuple(k for k in before.fresh if k not in again),
            (*before.gone, *(k for k in gone if k not in self._lanes)),
        )
        return RestoreReport(tuple(kept), (), tuple(gone))

    def state(self) -> bytes:
        """Return the state of every lane."""
        return self._pack(self._lanes)

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned; lanes that are new or were registered differently begin anew, see `restored`.

        Raises
        ------
        InternalError
            When `state` is not a state of a bank of this version.
        """
        saved = self._unpack(state)
        kept = []
        for key, lane in self._lanes.items():
            if key in saved and self._restore(lane, *saved.pop(key)):
                kept.append(key)
        again = frozenset(kept)
        self.restored = RestoreReport(tuple(kept), tuple(k for k in self._lanes if k not in again), tuple(saved))

    def _pack(self, keys: Collection[str]) -> bytes:
        lanes = {key: [self._lanes[key].fingerprint, self._lane_state(self._lanes[key])] for key in keys}
        return pack({"bank": BANK_VERSION, "lanes": lanes})

    def _unpack(self, state: bytes) -> dict[str, tuple[str, bytes]]:
        s = unpack(state)
        if s.get("bank") != BANK_VERSION or not isinstance(s.get("lanes"), dict):
            raise InternalError(f"expected the state of a bank of version {BANK_VERSION!r}, got {s.get('bank')!r}")
        return {key: (fingerprint, blob) for key, (fingerprint, blob) in s["lanes"].items()}

    def _lane_state(self, lane: _Lane) -> bytes:
        lanes = self._feeds[lane.feed].lanes
        return lanes.state(lane.number) if isinstance(lanes, GridLanes) else lanes.state()

    def _restore(self, lane: _Lane, fingerprint: str, blob: bytes) -> bool:
        """Give a lane its state; return whether it took it. Channel by channel where the lane now has other channels, if its detector can."""
        lanes = self._feeds[lane.feed].lanes
        if fingerprint != lane.fingerprint:
            return not isinstance(lanes, GridLanes) and lanes.adopt(blob)
        if isinstance(lanes, GridLanes):
            lanes.restore(lane.number, blob)
        else:
            lanes.restore(blob)
        return True

    def _detector(self, lane: _Lane) -> FrameDetector | RowDetector:
        lanes = self._feeds[lane.feed].lanes
        return lanes.detectors[lane.number] if isinstance(lanes, GridLanes) else lanes.detector

    @property
    def detectors(self) -> Mapping[str, FrameDetector | RowDetector]:
        """Return the detector of every lane."""
        return {key: self._detector(lane) for key, lane in self._lanes.items()}


def _fingerprint(channels: Sequence[Channel], text: dict[int, str]) -> str:
    """Return a digest of what is registered for some channels; `text` keeps what was written of each."""
    digest = hashlib.sha256()
    for c in channels:
        if c.channel_id not in text:
            text[c.channel_id] = (
                f"{c.channel_id},{c.device_id},{c.role},{c.quantity},{c.zone_id},{c.also_zone_id},{c.asset_id},{c.sign},{c.interval_s},{c.resolution};"
            )
        digest.update(text[c.channel_id].encode())
    return digest.hexdigest()[:16]
