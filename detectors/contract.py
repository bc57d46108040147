"""What a detector is: the protocol, what it is fed, and what it gives back.

A detector is a machine over event-ordered rows of its own channels. It is fed through a *lane* (`detectors.lanes`), which puts rows in order,
drops duplicates and late rows, and so gives every detector the same laws: splitting a batch changes nothing, a duplicate changes nothing.
There are two kinds of food: `Frames` (one row a grid time, one column a channel, NaN is a gap) and `Rows` (readings as they are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from underway.model import ExpectationBatch, Finding, FindingKind, Hold, Operation, Signal

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]

NEVER_US = -(2**62)
"""An instant before everything; small enough that intervals can be added to it."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Judged grid times of one group of channels, ascending; only grid times with at least one reading.

    Attributes
    ----------
    at_us : ndarray of int64, shape (n,)
        Grid times, microseconds since 1970.
    value : ndarray of float64, shape (n, c)
        Mean of the readings nearest to the grid time, in the channel's canonical unit; NaN is a gap.
    historical : ndarray of bool, shape (n,)
        True where a reading was flagged late or historical.
    """

    at_us: IntArray
    value: FloatArray
    historical: BoolArray

    def __len__(self) -> int:
        return len(self.at_us)


@dataclass(frozen=True, slots=True)
class Rows:
    """Readings in arrival order; inside one channel the observed times strictly increase (for `NoData` they may come as they like).

    Attributes
    ----------
    column : ndarray of int64, shape (n,)
        Index into the detector's ``channel_ids``.
    at_us, received_us : ndarray of int64, shape (n,)
    value : ndarray of float64, shape (n,)
    historical : ndarray of bool, shape (n,)
    """

    column: IntArray
    at_us: IntArray
    received_us: IntArray
    value: FloatArray
    historical: BoolArray

    def __len__(self) -> int:
        return len(self.at_us)


@dataclass(frozen=True, slots=True)
class BankOutput:
    """Findings in order of (detected, detector, asset, kind) and the expectations behind them.

    A signal may stand more than once in ``expectations.signals``, once a baseline.
    """

    findings: tuple[Finding, ...]
    expectations: ExpectationBatch


class Detector(Protocol):
    """One method watching one thing.

    The docstring of every implementation states its equation, cost, state size and what it is blind to; its doctest is its textbook case.
    """

    @property
    def name(self) -> str:
        """Name of the method, for example ``zone-inflow``."""
        ...

    @property
    def version(self) -> str:
        """Version of the method: a new one begins with an empty state."""
        ...

    @property
    def key(self) -> str:
        """Unique in a bank and stable over restarts, for example ``zone-inflow@1/z3``."""
        ...

    @property
    def kinds(self) -> tuple[FindingKind, ...]:
        """What it can find."""
        ...

    @property
    def channel_ids(self) -> tuple[int, ...]:
        """What it is fed, in the order of the columns."""
        ...

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What it expects something of."""
        ...

    @property
    def state_bytes_max(self) -> int:
        """Upper limit of the length of `state`; a law."""
        ...

    @property
    def warm_up_us(self) -> int:
        """How much history it needs before it has learned, microseconds: what a fresh one is fed before a window that it shall judge again."""
        ...

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` keeps this detector from adapting."""
        ...

    def hold(self, hold: Hold) -> None:
        """Stop adapting (``released_us`` None), or take the release into account."""
        ...

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        ...

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        ...


class FrameDetector(Detector, Protocol):
    """A detector that looks at several channels at the same time, on a grid."""

    @property
    def grid_us(self) -> int:
        """Distance of grid times, microseconds."""
        ...

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        ...


class Operated(Protocol):
    """A detector that takes known operations into account; its lane gives it no reading of [begin, an hour after the end]."""

    def touched_by(self, operation: Operation) -> bool:
        """Return whether `operation` disturbs what this detector watches."""
        ...

    def told_late(self, operation: Operation) -> None:
        """Forget what can still be forgotten since the begin of `operation`: it began before what was judged last."""
        ...


class Fleet(Protocol):
    """Detectors of one kind that judge their grid times together, as arrays over all of them."""

    def step(self, number: IntArray, at_us: IntArray, value: FloatArray, historical: BoolArray) -> BankOutput:
        """Judge at most one grid time of every member.

        Parameters
        ----------
        number : ndarray of int64, shape (n,)
            Members, ascending.
        at_us, historical : ndarray, shape (n,)
        value : ndarray of float64
            Values of all channels of the first member in the order of its ``channel_ids``, then those of the second, and so on; NaN is a gap.
        """
        ...


class FleetDetector(FrameDetector, Protocol):
    """A frame detector whose state stands in the arrays of a fleet."""

    @property
    def fleet(self) -> Fleet:
        """The fleet."""
        ...

    @property
    def number(self) -> int:
        """Place in the fleet."""
        ...


class RowDetector(Detector, Protocol):
    """A detector that looks at every channel on its own, reading by reading."""

    def step(self, rows: Rows) -> BankOutput:
        """Judge readings in order."""
        ...

    def tick(self, now_us: int) -> BankOutput:
        """Take notice of the time where no reading comes; only silence may be judged here."""
        ...


def no_expectations() -> ExpectationBatch:
    """Return an expectation batch without rows."""
    f = np.empty(0, np.float64)
    return ExpectationBatch((), (), np.empty(0, np.int32), np.empty(0, np.int64), f, f.copy(), f.copy())


def no_output() -> BankOutput:
    """Return an output without findings and expectations."""
    return BankOutput((), no_expectations())


def merge_outputs(outputs: Sequence[BankOutput]) -> BankOutput:
    """Return one output: findings in order of (detected, detector, asset, kind, phase), expectations one after the other."""
    outputs = [o for o in outputs if o.findings or len(o.expectations)]
    if not outputs:
        return no_output()
    findings = sorted(
        (f for o in outputs for f in o.findings),
        key=lambda f: (f.detected_us, f.detector, f.asset_id, f.kind.value, f.phase.value, f.onset_us),
    )
    parts = [o.expectations for o in outputs if len(o.expectations)]
    if not parts:
        return BankOutput(tuple(findings), no_expectations())
    signals: list[Signal] = []
    baseline: list[str] = []
    codes: list[NDArray[np.int32]] = []
    for part in parts:
        codes.append((part.signal + len(signals)).astype(np.int32))
        signals.extend(part.signals)
        baseline.extend(part.baseline)
    return BankOutput(
        tuple(findings),
        ExpectationBatch(
            tuple(signals),
            tuple(baseline),
            np.concatenate(codes),
            np.concatenate([p.at_us for p in parts]),
            np.concatenate([p.observed for p in parts]),
            np.concatenate([p.expected for p in parts]),
            np.concatenate([p.sigma for p in parts]),
        ),
    )


@dataclass(slots=True)
class OutputWriter:
    """Collects findings and expectations during one step of a detector.

    Rows whose observed, expected or sigma is not finite are left out: no expectation, no row.
    """

    signals: tuple[Signal, ...]
    findings: list[Finding] = field(default_factory=list)
    _index: dict[tuple[int, str], int] = field(default_factory=dict)
    _signal: list[IntArray] = field(default_factory=list)
    _at: list[int] = field(default_factory=list)
    _columns: list[FloatArray] = field(default_factory=list)

    def expect(self, at_us: int, baseline: str, first: int, observed: FloatArray, expected: FloatArray, sigma: FloatArray) -> None:
        """Append one row a signal, for the signals from number `first` on; all arrays have shape (m,)."""
        codes = np.fromiter((self._index.setdefault((first + j, baseline), len(self._index)) for j in range(len(observed))), np.int64)
        self._signal.append(codes)
        self._at.append(at_us)
        self._columns.append(np.array((observed, expected, sigma), np.float64))

    def output(self) -> BankOutput:
        """Return what was collected."""
        if not self._signal:
            return BankOutput(tuple(self.findings), no_expectations())
        codes = np.concatenate(self._signal)
        columns = np.concatenate(self._columns, axis=1)
        at = np.repeat(np.array(self._at, np.int64), [len(s) for s in self._signal])
        keep = np.isfinite(columns).all(axis=0)
        keys = list(self._index)
        return BankOutput(
            tuple(self.findings),
            ExpectationBatch(
                tuple(self.signals[j] for j, _ in keys),
                tuple(b for _, b in keys),
                codes[keep].astype(np.int32),
                at[keep],
                columns[0, keep],
                columns[1, keep],
                columns[2, keep],
            ),
        )


@dataclass(slots=True)
class OutputRows:
    """Collects findings and expectations of many detectors during one step; every row names its signal and baseline.

    Rows whose observed, expected or sigma is not finite are left out: no expectation, no row.
    """

    findings: list[Finding] = field(default_factory=list)
    _signals: list[Signal] = field(default_factory=list)
    _baseline: list[str] = field(default_factory=list)
    _at: list[IntArray] = field(default_factory=list)
    _columns: list[FloatArray] = field(default_factory=list)

    def add(
        self,
        signals: Sequence[Signal],
        baseline: Sequence[str],
        at_us: IntArray,
        observed: FloatArray,
        expected: FloatArray,
        sigma: FloatArray,
    ) -> None:
        """Append rows; all columns have shape (m,)."""
        self._signals.extend(signals)
        self._baseline.extend(baseline)
        self._at.append(at_us)
        self._columns.append(np.array((observed, expected, sigma), np.float64))

    def output(self) -> BankOutput:
        """Return what was collected."""
        if not self._at:
            return BankOutput(tuple(self.findings), no_expectations())
        columns, at = np.concatenate(self._columns, axis=1), np.concatenate(self._at)
        keep = np.isfinite(columns).all(axis=0)
        signals, baseline = self._signals, self._baseline
        if not keep.all():
            rows = np.flatnonzero(keep).tolist()
            signals, baseline = [signals[i] for i in rows], [baseline[i] for i in rows]
            columns, at = columns[:, keep], at[keep]
        code = np.arange(len(at), dtype=np.int32)
        return BankOutput(
            tuple(self.findings),
            ExpectationBatch(tuple(signals), tuple(baseline), code, at.astype(np.int64), columns[0], columns[1], columns[2]),
        )
