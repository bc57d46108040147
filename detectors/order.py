"""Row lanes: readings of one channel in event-time order, inside a bounded reorder window.

The rule, row by row in order of arrival:

1. The clock is the newest reception so far, with that of this row. Rows that have waited `REORDER_US` by it are released, in order.
2. A row at or before the place that its channel has reached is late (a duplicate is, too). Of two that wait with one instant the first stays.
3. A row no further than 1.5 nominal intervals beyond that place is passed on at once, and so are the waiting rows that it leads to. The first
   row of a channel is passed on at once.
4. A row beyond a gap waits until the gap is filled, or its time is up (a `tick` is a clock, too), or more than `WAIT_ROWS_MAX` rows of its
   channel wait: then the oldest is released. When `WAIT_ALL_MAX` rows wait in the whole lane, a row beyond a gap is passed on at once.

Everything follows from the rows and their receptions, so that a replay does the same. A tick only releases earlier what the next row would release
before anything else is looked at.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, FloatArray, IntArray, RowDetector, Rows, merge_outputs, no_output
from detectors.segments import Once, first_of_each, newest_before
from detectors.snapshot import pack, unpack
from underway.model import MINUTE_US, Channel, Hold

REORDER_US = MINUTE_US
GAP_INTERVALS = 1.5
WAIT_ROWS_MAX = 8
WAIT_ALL_MAX = 50_000


class _Row(NamedTuple):
    """A row that waits for the gap before it to be filled."""

    at_us: int
    received_us: int
    value: float
    behind: bool


class _Places(dict[int, int]):
    """Places that the channels of the window have reached; read from the lane's array when first asked for."""

    def __init__(self, place_us: IntArray) -> None:
        super().__init__()
        self._place_us = place_us

    def __missing__(self, column: int) -> int:
        place = self[column] = int(self._place_us[column])
        return place


class _Window:
    """The rows that wait, with the rule for them; the common row never comes here."""

    __slots__ = ("due", "gap_us", "late", "out", "place", "rows", "total")

    def __init__(self, gap_us: IntArray, place_us: IntArray) -> None:
        self.gap_us = gap_us
        self.rows: dict[int, list[_Row]] = {}
        self.due: list[tuple[int, int, int]] = []
        self.total = 0
        self.place = _Places(place_us)
        self.out: list[tuple[int, int, int, _Row]] = []
        self.late: list[int] = []

    def begin(self, place_us: IntArray) -> None:
        """Get ready for a batch."""
        self.place, self.out, self.late = _Places(place_us), [], []

    def part(self, columns: set[int], place_us: IntArray) -> _Window:
        """Return a window with some channels that may be stepped without moving this one."""
        other = _Window(self.gap_us, place_us)
        other.rows = {c: list(self.rows[c]) for c in columns if c in self.rows}
        other.due = [(r.received_us + REORDER_US, c, r.at_us) for c, rows in other.rows.items() for r in rows]
        heapq.heapify(other.due)
        other.total = self.total
        return other

    def put(self, column: int, row: _Row) -> None:
        """Let a row wait."""
        insort(self.rows.setdefault(column, []), row, key=_at)
        self.total += 1
        heapq.heappush(self.due, (row.received_us + REORDER_US, column, row.at_us))

    def accept(self, column: int, row: _Row, number: int, clock_us: int) -> None:
        """Take row `number` of a batch."""
        place, waiting = self.place[column], self.rows.get(column, ())
        if row.at_us <= place:
            self.late.append(number)
        elif place == NEVER_US or row.at_us <= place + int(self.gap_us[column]):
            self._pass(column, row, number, 1)
            self._lead_on(column, number, 1)
        elif any(w.at_us == row.at_us for w in waiting):
            self.late.append(number)
        else:
            self.put(column, row)
            waiting = self.rows[column]
            if self.total > WAIT_ALL_MAX or row.received_us + REORDER_US <= clock_us:
                self._release(column, row.at_us, number, 1)
            elif len(waiting) > WAIT_ROWS_MAX:
                self._release(column, waiting[0].at_us, number, 1)

    def expire(self, clock_us: IntArray, until: int) -> None:
        """Release what has waited long enough by ``clock_us[until]``, each row where the clock first said so."""
        now = int(clock_us[until])
        while self.due and self.due[0][0] <= now:
            deadline, column, at = heapq.heappop(self.due)
            if any(w.at_us == at for w in self.rows.get(column, ())):
                self._release(column, at, int(np.searchsorted(clock_us, deadline)), 0)

    def walk(
        self, special: IntArray, column: IntArray, at: IntArray, received: IntArray, value: FloatArray, behind: BoolArray, clock: IntArray
    ) -> None:
        """Take the rows `special` of a batch one after the other."""
        columns, ats, receptions = column[special].tolist(), at[special].tolist(), received[special].tolist()
        values, behinds, now = value[special].tolist(), behind[special].tolist(), clock[special].tolist()
        for i, number in enumerate(special.tolist()):
            self.expire(clock, number)
            self.accept(columns[i], _Row(ats[i], receptions[i], values[i], behinds[i]), number, now[i])
        self.expire(clock, len(clock) - 1)

    def _release(self, column: int, until_us: int, number: int, phase: int) -> None:
        waiting = self.rows[column]
        while waiting and waiting[0].at_us <= until_us:
            self.total -= 1
            self._pass(column, waiting.pop(0), number, phase)
        self._lead_on(column, number, phase)

    def _lead_on(self, column: int, number: int, phase: int) -> None:
        waiting = self.rows.get(column)
        if waiting is None:
            return
        while waiting and waiting[0].at_us <= self.place[column] + int(self.gap_us[column]):
            self.total -= 1
            self._pass(column, waiting.pop(0), number, phase)
        if not waiting:
            del self.rows[column]

    def _pass(self, column: int, row: _Row, number: int, phase: int) -> None:
        self.place[column] = row.at_us
        self.out.append((number, phase, column, row))


def _at(row: _Row) -> int:
    return row.at_us


class ReorderLane:
    """Feed `Rows` to a detector in event-time order; the rule is the module's text.

    Parameters
    ----------
    detector : RowDetector
    channels : sequence of Channel
        In the order of the detector's ``channel_ids``.

    Notes
    -----
    Cost: one stable sort and some passes a batch; rows at gaps one by one, about 5 us each. State: one instant a channel and the rows that wait.
    """

    def __init__(self, detector: RowDetector, channels: Sequence[Channel]) -> None:
        self.detector = detector
        self._ids = np.array([c.channel_id for c in channels], np.int32)
        self.gap_us = np.array([round(GAP_INTERVALS * c.interval_s * 1e6) for c in channels], np.int64)
        self.place_us = np.full(len(channels), NEVER_US, np.int64)
        self.clock_us = NEVER_US
        self.late_rows = 0
        self._window = _Window(self.gap_us, self.place_us)
        self._waits = np.zeros(len(channels), np.bool_)
        self._once = Once(len(channels))

    @property
    def waiting_rows(self) -> int:
        """Return how many rows wait."""
        return self._window.total

    def step(self, column: IntArray, at: IntArray, received: IntArray, value: FloatArray, behind: BoolArray) -> BankOutput:
        """Take rows in order of arrival, pass on what is in order."""
        if not len(column):
            return no_output()
        window = self._window
        keep, special, clock = self._sort(column, at, received)
        if len(keep) == len(column):
            passed, at_passed = column, at
        else:
            passed, at_passed = column[keep], at[keep]
        np.maximum.at(self.place_us, passed, at_passed)
        refused = len(column) - len(keep) - len(special)
        rows: Rows
        if len(special) or (window.due and window.due[0][0] <= int(clock[-1])):
            rows = self._special(keep, special, column, at, received, value, behind, clock)
            refused += len(window.late)
        elif len(keep) == len(column):
            rows = Rows(column, at, received, value, behind)
        else:
            rows = Rows(passed, at_passed, received[keep], value[keep], behind[keep])
        self.late_rows += refused
        self.clock_us = int(clock[-1])
        return self.detector.step(rows) if len(rows) else no_output()

    def late(self, column: IntArray, at: IntArray, received: IntArray) -> BoolArray:
        """Return which rows `step` would refuse; changes nothing."""
        if not len(column):
            return np.zeros(0, np.bool_)
        keep, special, clock = self._sort(column, at, received)
        late = np.ones(len(column), np.bool_)
        late[keep] = False
        if len(special):
            window = self._window.part(set(column[special].tolist()), self.place_us)
            window.walk(special, column, at, received, np.zeros(len(column)), late, clock)
            late[special] = False
            late[np.array(window.late, np.int64)] = True
        return late

    def tick(self, now_us: int) -> BankOutput:
        """Take notice of the time: release what has waited long enough, then pass the time on."""
        if self._window.due and self._window.due[0][0] <= now_us:
            none, no = np.empty(0, np.int64), np.empty(0, np.bool_)
            rows = self._special(none, none, none, none, none, np.empty(0), no, np.array([now_us]))
            released = self.detector.step(rows) if len(rows) else no_output()
            return merge_outputs((released, self.detector.tick(now_us)))
        return self.detector.tick(now_us)

    def hold(self, hold: Hold) -> None:
        """Pass a hold on to a detector that it covers."""
        if self.detector.covers(hold):
            self.detector.hold(hold)

    def _sort(self, column: IntArray, at: IntArray, received: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Return (rows that pass at once, rows of channels with a gap or with waiting rows, the clock at every row)."""
        clock = np.maximum(np.maximum.accumulate(received), self.clock_us)
        if self._once(column):
            order, sorted_column, sorted_at = None, column, at
            before = self.place_us[column]
        else:
            order = np.argsort(column, kind="stable")
            sorted_column, sorted_at = column[order], at[order]
            before = np.maximum(newest_before(first_of_each(sorted_column), sorted_at), self.place_us[sorted_column])
        fresh = sorted_at > before
        apart = fresh & (sorted_at - before > self.gap_us[sorted_column]) & (before != NEVER_US)
        if self._window.total:
            apart |= self._waits[sorted_column]
        special = np.zeros(0, np.int64)
        if apart.any():
            odd = np.zeros(len(self.gap_us), np.bool_)
            odd[sorted_column[apart]] = True
            of_row = odd[sorted_column]
            fresh &= ~of_row
            special = np.flatnonzero(of_row) if order is None else np.sort(order[of_row])
        return np.flatnonzero(fresh) if order is None else np.sort(order[fresh]), special, clock

    def _special(
        self,
        keep: IntArray,
        special: IntArray,
        column: IntArray,
        at: IntArray,
        received: IntArray,
        value: FloatArray,
        behind: BoolArray,
        clock: IntArray,
    ) -> Rows:
        """Take the special rows through the window; return them with what passed at once, in the order in which all were passed on."""
        window = self._window
        window.begin(self.place_us)
        window.walk(special, column, at, received, value, behind, clock)
        for c, place in window.place.items():
            self.place_us[c] = place
            self._waits[c] = c in window.rows
        out, extra = window.out, [row for _, _, _, row in window.out]
        number = np.concatenate((keep, np.array([n for n, _, _, _ in out], np.int64)))
        phase = np.concatenate((np.ones(len(keep), np.int64), np.array([p for _, p, _, _ in out], np.int64)))
        columns = np.concatenate((column[keep], np.array([c for _, _, c, _ in out], np.int64)))
        ats = np.concatenate((at[keep], np.array([r.at_us for r in extra], np.int64)))
        order = np.lexsort((ats, columns, phase, number))
        return Rows(
            columns[order],
            ats[order],
            np.concatenate((received[keep], np.array([r.received_us for r in extra], np.int64)))[order],
            np.concatenate((value[keep], np.array([r.value for r in extra], np.float64)))[order],
            np.concatenate((behind[keep], np.array([r.behind for r in extra], np.bool_)))[order],
        )

    def state(self) -> bytes:
        """Return the state of the lane and of its detector."""
        waiting = [(c, *row) for c, rows in sorted(self._window.rows.items()) for row in rows]
        return pack(
            {
                "ids": self._ids,
                "place": self.place_us,
                "clock": self.clock_us,
                "late": self.late_rows,
                "column": np.array([w[0] for w in waiting], np.int32),
                "at": np.array([w[1] for w in waiting], np.int64),
                "received": np.array([w[2] for w in waiting], np.int64),
                "value": np.array([w[3] for w in waiting], np.float64),
                "behind": np.array([w[4] for w in waiting], np.bool_),
                "detector": self.detector.state(),
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        self.place_us = s["place"]
        self._take_window(s, s["column"])
        self.detector.restore(s["detector"])

    def adopt(self, state: bytes) -> bool:
        """Take over what a state saved for other channels knows of the channels here; return whether the detector can."""
        adopting = getattr(self.detector, "adopt", None)
        if adopting is None:
            return False
        s = unpack(state)
        _, new, old = np.intersect1d(self._ids, s["ids"], return_indices=True)
        self.place_us[new] = s["place"][old]
        column = np.full(len(s["ids"]), -1, np.int64)
        column[old] = new
        self._take_window(s, column[s["column"]])
        adopting(s["detector"], old, new)
        return True

    def _take_window(self, s: dict[str, Any], columns: IntArray) -> None:
        """Take the rows that wait; those with a negative column belong to nobody here."""
        self.clock_us, self.late_rows = s["clock"], s["late"]
        self._window = _Window(self.gap_us, self.place_us)
        self._waits[:] = False
        rows = zip(columns.tolist(), *(s[name].tolist() for name in ("at", "received", "value", "behind")), strict=True)
        for column, at, received, value, behind in rows:
            if column >= 0:
                self._window.put(column, _Row(at, received, value, behind))
                self._waits[column] = True
