"""Leaks in a network whose hydraulic model the utility has: where, how large, since when, and whether a dig is worth it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from detectors.contract import BankOutput, FloatArray, Frames, no_expectations, no_output
from detectors.snapshot import pack, unpack
from detectors.water.leak_committee import RAISE_MASS, Committee, DigRules, Place, PlaceChange
from detectors.water.leak_committee import bytes_max as committee_bytes_max
from detectors.water.leak_tracker import Noise
from detectors.water.pipe_map import hull, pipe_distance_m
from detectors.water.section_model import HOURS_LEARNED, Fit, FittedSection, Loads
from detectors.water.sections import Section, sections
from underway.model import (
    HOUR_US,
    MINUTE_US,
    Asset,
    Candidate,
    Channel,
    Driver,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    NetworkModel,
    Operation,
    Signal,
    finding_id,
    from_us,
)

KPA_PER_M = 9.80665
STEP_HOURS, DAY_HOURS, STEPS_A_DAY = 6, 24, 4
MEANS_KEPT = 42 * STEPS_A_DAY + 1
STUCK_STEPS = 24
"""Equal readings in a row (two hours) that no moving pressure shows."""
GAP_HOURS_MAX = 40 * 24
"""After a longer silence it begins anew."""
CANDIDATES_MAX, CANDIDATE_MASS = 40, 0.95
DRIVERS_MAX = 5
HULL_MASS = 0.8
REPAIRS_MAX = 1000


class NetworkLeaks:
    """Watch one section of a network with its hydraulic model.

    Parameters
    ----------
    section : Section
        What is balanced; from `sections`.
    model : NetworkModel
    timezone : str
        IANA name; the patterns of the model begin on a Monday at local midnight.
    assets : mapping of str to Asset
        By id; for zones and the map.
    digs : DigRules, optional
        When a crew is sent.

    Notes
    -----
    Every hour the model is solved with the demand that the meters saw; what it does not explain of pressures and flows goes, as means over 24 h,
    every 6 h to a committee of trackers (`detectors.water.leak_committee`, `detectors.water.leak_tracker`). For a tracker with leaks i:
    ``y = b + sum q_i S[j_i] + noise``, b a random walk, q_i a random walk; a new leak is believed where ``max_j (d' C^-1 S_j)^2 / (S_j' C^-1 S_j)``
    exceeds a threshold, d the difference to what was foreseen 1 to 32 days ago and C its covariance. An alarm is raised where the trackers together
    put 0.4 of their probability within the reach of one dig; a crew is sent where the water saved is worth more than the dig, see `DigRules`.

    The first 14 days are for learning (`detectors.water.section_model`); nothing that comes later changes what was learned, so a leak is never
    absorbed by it. A repair that a crew reports (a hold that is released with ``repaired``) closes the leak there.

    Known operations (`Operation`) on its pipes or in its zones, and the hour after each, count as a gap.

    Cost: about 0.5 ms an hour for the model and 9 ms every 6 h for the trackers (800 pipes, 31 signals, one core); learning 15 s, once. State up to
    9 MB. Blind to: leaks that began before or during the learning; leaks smaller than about 0.5 m3/h; which of several pipes of one dead end leaks;
    closed valves that the model has open and other differences that come later (they are taken for leaks or for nothing, never for what they are);
    more than one leak within 300 m that grow at the same time; leaks while an inlet meter or the level of a tank is silent.

    References
    ----------
    Vrachimis et al. (2022), Battle of the Leakage Detection and Isolation Methods, doi 10.1061/(ASCE)WR.1943-5452.0001601. Willsky and Jones (1976),
    A generalized likelihood ratio approach to the detection and estimation of jumps in linear systems, doi 10.1109/TAC.1976.1101146.
    """

    name = "network-leaks"
    version = "2"
    kinds = (FindingKind.LEAK_BURST, FindingKind.LEAK_BACKGROUND)
    grid_us = 5 * MINUTE_US
    warm_up_us = (HOURS_LEARNED + 2 * DAY_HOURS) * HOUR_US
    signals: tuple[Signal, ...] = ()

    def __init__(
        self, section: Section, model: NetworkModel, timezone: str, assets: Mapping[str, Asset], digs: DigRules | None = None
    ) -> None:
        self.section, self.digs = section, digs or DigRules()
        self.key = f"{self.name}@{self.version}/{model.site_id}/{section.name}/{model.digest}"
        self.channels = section.channels
        self.channel_ids = tuple(c.channel_id for c in self.channels)
        self._zone = ZoneInfo(timezone)
        asset_of = {element: asset for asset, element in sorted(model.element_of.items(), reverse=True)}
        self._pipe_asset = [asset_of.get(p, p) for p in section.pipes]
        self._pipe_index = {asset: i for i, asset in enumerate(self._pipe_asset)}
        self._assets = assets
        zones = {z for c in self.channels for z in (c.zone_id, c.also_zone_id)}
        zones |= {assets[a].zone_id for a in self._pipe_asset if a in assets}
        self._zones = frozenset(z for z in zones if z)
        kinds = [len(section.gauge_channels), len(section.link_channels), len(section.inlets), len(section.pumps), len(section.tanks)]
        edges = np.cumsum([0, *kinds, len(section.customer_channels)])
        self._at = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
        self._inlet_sign = np.array([m.sign for m in section.inlets], np.float64)
        self._pump_sign = np.array([m.sign for m in section.pumps], np.float64)
        n, m, p = len(self.channels), len(section.gauges) + len(section.metered_links) + 1, len(section.pipes)
        learning, means = (HOURS_LEARNED + 48) * (n + m), MEANS_KEPT * m
        self.state_bytes_max = committee_bytes_max(p, m) + 9 * (learning + means + p * (m + 1)) + 60_000
        self._begin_anew()

    @classmethod
    def plan(
        cls, channels: Sequence[Channel], model: NetworkModel, timezone: str, assets: Mapping[str, Asset], digs: DigRules | None = None
    ) -> list[NetworkLeaks]:
        """Return one detector for each section of a model that can be balanced with these channels."""
        found, _ = sections(channels, model)
        return [cls(section, model, timezone, assets, digs) for section in found]

    def _begin_anew(self) -> None:
        n = len(self.channels)
        self._fitted = FittedSection(self.section)
        self._committee: Committee | None = None
        self._hour = -1
        self._sum, self._count = np.zeros(n), np.zeros(n)
        self._first_level = np.full(len(self.section.tanks), np.nan)
        self._last, self._run = np.full(n, np.nan), np.zeros(n, np.int64)
        self._rows: list[FloatArray] = []
        self._row_hour = 0
        self._means: list[FloatArray] = []
        self._historical = False
        self._repairs: list[list[int]] = []
        self._told: dict[int, list[Any]] = {}

    # -- holds ----------------------------------------------------------------------------------------------------------------------

    def covers(self, hold: Hold) -> bool:
        """Return whether `hold` is on a pipe of this section."""
        return hold.asset_id in self._pipe_index

    def hold(self, hold: Hold) -> None:
        """Take note of a repair; nothing else, for it adapts to nothing while a leak runs."""
        if hold.released_us is None or hold.verdict != "repaired" or hold.asset_id not in self._pipe_index:
            return
        repair = [hold.released_us, self._pipe_index[hold.asset_id], hold.hold_id]
        if repair not in self._repairs and hold.released_us > self._hour * HOUR_US:
            self._repairs = sorted([*self._repairs, repair])[:REPAIRS_MAX]

    # -- known operations -----------------------------------------------------------------------------------------------------------

    def touched_by(self, operation: Operation) -> bool:
        """Return whether `operation` is on a pipe of this section, or in a zone of its pipes and meters."""
        return operation.asset_id in self._pipe_index or operation.zone_id in self._zones

    def told_late(self, operation: Operation) -> None:
        """Blank the hours of the last day that it falls into, and the hour that runs; means over a day that were made stay as they are."""
        first, last = operation.begin_us // HOUR_US, operation.quiet_until_us // HOUR_US
        if first <= self._hour <= last:
            self._sum[:], self._count[:], self._first_level[:] = 0.0, 0.0, np.nan
        newest = self._row_hour if self._committee is None else self._hour - 1
        for back, row in enumerate(reversed(self._rows[-DAY_HOURS:])):
            if first <= newest - back <= last:
                row[:] = np.nan

    # -- the step -------------------------------------------------------------------------------------------------------------------

    def step(self, frames: Frames) -> BankOutput:
        """Judge grid times in order."""
        findings: list[Finding] = []
        hours = frames.at_us // HOUR_US
        edges = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(hours)]
        for a, b in itertools.pairwise(edges):
            if a == b:
                continue
            hour = int(hours[a])
            if hour != self._hour:
                self._turn(hour, int(frames.at_us[a]), frames.value[a], findings)
            for row in frames.value[a:b]:
                self._add(row)
            self._historical |= bool(frames.historical[a:b].any())
        return BankOutput(tuple(findings), no_expectations()) if findings else no_output()

    def _add(self, row: FloatArray) -> None:
        """Take the readings of one grid time in; a gauge that repeats itself for two hours is not believed, from the first repeat on."""
        seen = np.isfinite(row)
        same = seen & (row == self._last)
        self._run = np.where(same, self._run + 1, np.where(seen, 0, self._run))
        self._last = np.where(seen, row, self._last)
        stuck = seen & (self._run >= STUCK_STEPS - 1)
        stuck[self._at[1].start :] = False  # flows may well stand still, and so may levels
        if stuck.any():
            self._disbelieve(np.flatnonzero(stuck))
        good = seen & ~stuck
        self._sum += np.where(good, row, 0.0)
        self._count += good

    def _disbelieve(self, gauges: np.ndarray[Any, Any]) -> None:
        for g in gauges.tolist():
            self._sum[g] = self._count[g] = 0.0
            back = min(int(self._run[g]) // 12 + 1, len(self._rows))
            for row in self._rows[len(self._rows) - back :] if back and self._run[g] < STUCK_STEPS + 12 else ():
                row[g] = np.nan
                if self._committee is not None:
                    row[len(self.channels) + g] = np.nan

    def _turn(self, hour: int, at_us: int, row: FloatArray, findings: list[Finding]) -> None:
        """Close the hour that was, and those in which nothing came."""
        levels = np.where(at_us == hour * HOUR_US, row[self._at[4]], np.nan)
        if self._hour >= 0 and hour - self._hour > GAP_HOURS_MAX:
            self._begin_anew()
        elif self._hour >= 0:
            for closing in range(self._hour, hour):
                on_time = closing == hour - 1 and at_us == hour * HOUR_US
                self._close(closing, levels if on_time else np.full(len(levels), np.nan), row[self._at[5]] if on_time else None, findings)
        self._hour = hour
        self._first_level = levels.copy()
        self._sum[:], self._count[:] = 0.0, 0.0

    def _close(self, hour: int, next_level: FloatArray, customers: FloatArray | None, findings: list[Finding]) -> None:
        with np.errstate(invalid="ignore"):
            mean = np.where(self._count > 0, self._sum / np.maximum(self._count, 1.0), np.nan)
        # customers' readings are means over the hour that ends where they are stamped
        mean[self._at[5]] = np.nan if customers is None else customers
        fill = float(np.sum((next_level - self._first_level) * self.section.tank_area_m2)) if len(next_level) else 0.0
        self._first_level = next_level.copy()
        self._sum[:], self._count[:] = 0.0, 0.0
        row = np.append(mean, fill)
        if self._committee is None:
            if not self._rows and hour % DAY_HOURS:
                return
            self._rows.append(row)
            self._row_hour = hour
            if len(self._rows) == HOURS_LEARNED:
                self._learn(findings)
        else:
            self._judge(hour, row, findings)

    def loads(self, rows: FloatArray, last_hour: int) -> Loads:
        """Return hours as the model wants them, in m and m3/h; `rows` are channel means and the filling of the tanks."""
        section, (gauges, links, inlets, pumps, tanks, customers) = self.section, self._at
        flow_in, flow_pumps = rows[:, inlets] * self._inlet_sign, rows[:, pumps]
        supplied = flow_in.sum(1) + (flow_pumps * self._pump_sign).sum(1) - rows[:, len(self.channels)]
        used = rows[:, customers]
        demand = used.sum(1) if section.customer_places else supplied
        measured = [
            rows[:, gauges] / KPA_PER_M,
            flow_in[:, : len(section.inlets) - 1] if len(section.inlets) > 1 else rows[:, :0],
            rows[:, links],
            supplied[:, None],
        ]
        first = last_hour - len(rows) + 1
        week = np.array([self._week_hour(first + k) for k in range(len(rows))], np.int64)
        return Loads(np.concatenate(measured, axis=1), demand, flow_pumps, rows[:, tanks], used, week)

    def _week_hour(self, hour: int) -> int:
        at = datetime.fromtimestamp(hour * 3600, self._zone)
        return at.weekday() * 24 + at.hour

    def _learn(self, findings: list[Finding]) -> None:
        """Learn from the first weeks, and take them in day by day."""
        loads = self.loads(np.array(self._rows), self._row_hour)
        try:
            self._fitted.learn(loads)
        except ValueError:
            self._rows = self._rows[DAY_HOURS:]  # too many gaps: learn from a later fortnight
            return
        self._open_committee()
        rows, last, self._rows = self._rows, self._row_hour, []
        expected, weight = self._fitted.expected(loads), self._fitted.weight(loads)
        for k, row in enumerate(rows):
            self._take(last - len(rows) + 1 + k, row, loads.measured[k], expected[k], weight[k], findings, judging=False)

    def _open_committee(self) -> None:
        fit = self._fitted.fit
        if fit is not None:
            distance = pipe_distance_m(self.section)
            noise = Noise(fit.noise_own, fit.noise_shared, steady=not self._fitted.balanced)
            self._committee = Committee(fit.signatures, distance, self.section.length_m, noise, self.digs)

    def _judge(self, hour: int, row: FloatArray, findings: list[Finding]) -> None:
        loads = self.loads(row[None], hour)
        expected, weight = self._fitted.expected(loads)[0], self._fitted.weight(loads)[0]
        self._take(hour, row, loads.measured[0], expected, weight, findings, judging=True)

    def _take(
        self,
        hour: int,
        row: FloatArray,
        measured: FloatArray,
        expected: FloatArray,
        weight: FloatArray,
        findings: list[Finding],
        judging: bool,
    ) -> None:
        """Keep an hour for a day, and every six hours ask the committee."""
        committee = self._committee
        if committee is None:
            return
        n, gauges = len(self.channels), self._at[0]
        left = measured - expected
        left[gauges] = np.where(np.isfinite(row[gauges]), left[gauges], np.nan)
        self._rows = [*self._rows[-DAY_HOURS + 1 :], np.concatenate((row[:n], left, weight, expected))]
        if (hour + 1) % STEP_HOURS or len(self._rows) < DAY_HOURS:
            return
        m = len(left)
        day = np.array(self._rows)
        self._means = [
            *self._means[-MEANS_KEPT + 1 :],
            self._fitted.mean_of_day(day[:, n : n + m], day[:, n + m : n + 2 * m], day[:, n + 2 * m :]),
        ]
        now_us = (hour + 1) * HOUR_US
        while self._repairs and self._repairs[0][0] <= now_us:
            at_us, pipe, _ = self._repairs.pop(0)
            committee.repaired(at_us / 1e6, pipe)
        changes = committee.step(now_us / 1e6, self._means, (hour + 1) % DAY_HOURS == 0, STEPS_A_DAY, judging)
        self._tell(now_us, changes, findings)
        self._historical = False

    # -- findings -------------------------------------------------------------------------------------------------------------------

    def _tell(self, now_us: int, changes: Sequence[tuple[PlaceChange, Place]], findings: list[Finding]) -> None:
        """Write one finding for each place that changed: a dig and what else happened to a place at one instant are one finding."""
        phases = {PlaceChange.RAISED: FindingPhase.RAISE, PlaceChange.ENDED: FindingPhase.CLEAR}
        by_place: dict[int, tuple[Place, list[PlaceChange]]] = {}
        for change, place in changes:
            by_place.setdefault(place.number, (place, []))[1].append(change)
        for number, (place, what) in by_place.items():
            phase = next((phases[c] for c in what if c in phases), FindingPhase.UPDATE)
            if number not in self._told:
                kind = FindingKind.LEAK_BURST if place.abrupt else FindingKind.LEAK_BACKGROUND
                self._told[number] = [kind.value, self._pipe_asset[place.pipe], int(place.opened_s * 1e6)]
            kind_value, asset_id, onset_us = self._told[number]
            kind = FindingKind(kind_value)
            asset = self._assets.get(asset_id)
            findings.append(
                Finding(
                    finding_id(self.name, self.version, kind, phase, asset_id, onset_us, now_us), kind, phase, asset_id,
                    None if asset is None else asset.zone_id, self.name, self.version, max(place.mass, place.seen) / RAISE_MASS, onset_us, now_us,
                    self._evidence(place, PlaceChange.DIG in what, phase), self._historical,
                )
            )  # fmt: skip
            if phase is FindingPhase.CLEAR:
                del self._told[number]

    def _evidence(self, place: Place, dig: bool, phase: FindingPhase) -> Evidence:
        where = place.where / max(float(place.where.sum()), 1e-12)
        order = np.argsort(-where, kind="stable")
        many = min(int(np.searchsorted(np.cumsum(where[order]), CANDIDATE_MASS)) + 1, CANDIDATES_MAX)
        candidates = tuple(Candidate(self._pipe_asset[i], round(float(where[i]), 4)) for i in order[:many].tolist())
        pipe, worth = self._pipe_asset[place.dig_pipe], self.digs.worth_eur(place.mass, place.flow_m3ph)
        drivers, doubt = self._drivers(place, where)
        began = f"{from_us(int(place.opened_s * 1e6)):%Y-%m-%d}"
        if phase is FindingPhase.CLEAR:
            reason = "a crew reported a repair" if place.closing == "repaired" else "its pattern is gone from the pressures"
            text = f"The leak near {self._pipe_asset[place.pipe]} has ended: {reason}"
        else:
            text = f"About {place.flow_m3ph:.1f} m3/h are lost near {pipe} since about {began}"
            text += f" ({place.mass:.0%} within {self.digs.reach_m:.0f} m of it)"
            text += "; a crew is worth sending" if dig else ""
        details = {
            "flow_m3ph": round(place.flow_m3ph, 3),
            "mass_300m": round(place.mass, 3),
            "agreeing": round(place.seen, 2),
            "dig": dig,
            "dig_asset_id": pipe,
            "worth_eur": round(worth, 0),
            "alarm_us": int(place.alarm_s * 1e6),
            "leak_onset_us": int(place.opened_s * 1e6),
            "located_by": "model",
            "doubt": doubt,
            "polygon": self._polygon(where, order),
        }
        flow = place.flow_m3ph
        return Evidence(
            text, flow, 0.0, 0.0, 0.0, "m3/h", round(place.mass, 4), RAISE_MASS, f"{self.key}/learned", drivers, candidates, details
        )  # fmt: skip

    def _drivers(self, place: Place, where: FloatArray) -> tuple[tuple[Driver, ...], str]:
        """Return the signals that carry a place most, and in words what would speak against it."""
        fit = self._fitted.fit
        if fit is None or not self._rows:
            return (), ""
        gauges, n = len(self.section.gauges), len(self.channels)
        day = np.array(self._rows)
        m = fit.signatures.shape[1]
        with np.errstate(invalid="ignore"):
            count = np.isfinite(day[:, n : n + m]).sum(0)
            left = np.nansum(day[:, n : n + m], 0) / np.maximum(count, 1)
            expected = np.nansum(day[:, n + 2 * m :], 0) / np.maximum(np.isfinite(day[:, n + 2 * m :]).sum(0), 1)
        sd = np.sqrt(fit.noise_own + np.diag(fit.noise_shared))
        pattern = where @ fit.signatures
        strongest = np.argsort(-np.abs(pattern / sd), kind="stable")[:DRIVERS_MAX].tolist()
        drivers = tuple(self._driver(i, float(expected[i] + left[i]), float(expected[i]), float(sd[i])) for i in strongest)
        far = ~(pipe_distance_m(self.section)[place.dig_pipe] <= self.digs.reach_m)
        if not (far & (where > 0)).any():
            return drivers, "no pipe further away than the reach of a dig is left"
        other = int(np.flatnonzero(far)[np.argmax(where[far])])
        change = (fit.signatures[other] - fit.signatures[place.dig_pipe])[:gauges] * place.flow_m3ph
        telling = int(np.argmax(np.abs(change) / sd[:gauges]))
        name = self.section.gauge_channels[telling].asset_id or self.section.gauges[telling]
        more = "higher" if change[telling] > 0 else "lower"
        return drivers, f"were it at {self._pipe_asset[other]} instead, {name} would read {abs(change[telling]) * KPA_PER_M:.2f} kPa {more}"

    def _driver(self, signal: int, observed: float, expected: float, sd: float) -> Driver:
        section, k = self.section, signal - len(self.section.gauges)
        channels = [m.channel for m in section.inlets[:-1]] + list(section.link_channels)
        if k >= len(channels):
            what = "balance" if section.customer_places else "steady-supply"
            return Driver(f"section/{section.name}/{what}", round(observed, 3), round(expected, 3), round(sd, 4), "m3/h")
        c, what, unit, factor = (
            (section.gauge_channels[signal], "pressure", "kPa", KPA_PER_M) if k < 0 else (channels[k], "flow", "m3/h", 1.0)
        )
        name = f"asset/{c.asset_id or c.device_id}/{what}"
        return Driver(name, round(observed * factor, 3), round(expected * factor, 3), round(sd * factor, 4), unit, c.channel_id)

    def _polygon(self, where: FloatArray, order: Any) -> list[list[float]]:
        """Return the hull of the most probable pipes (0.8 together), longitude and latitude; empty without geometries."""
        many = int(np.searchsorted(np.cumsum(where[order]), HULL_MASS)) + 1
        points: list[tuple[float, float]] = []
        for i in order[:many].tolist():
            asset = self._assets.get(self._pipe_asset[i])
            if asset is not None and asset.geometry is not None and asset.geometry.get("type") == "LineString":
                points += [(float(x), float(y)) for x, y, *_ in asset.geometry["coordinates"]]
        return [list(p) for p in hull(points)]

    # -- state ----------------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        fit = self._fitted.fit
        return pack(
            {
                "fit": None if fit is None else {name: getattr(fit, name) for name in _FIT},
                "committee": None if self._committee is None else self._committee.state(),
                "hour": self._hour,
                "sum": self._sum,
                "count": self._count,
                "first_level": self._first_level,
                "last": self._last,
                "run": self._run,
                "rows": np.array(self._rows) if self._rows else np.zeros((0, 0)),
                "row_hour": self._row_hour,
                "means": np.array(self._means) if self._means else np.zeros((0, 0)),
                "historical": self._historical,
                "repairs": self._repairs,
                "told": [[k, *v] for k, v in sorted(self._told.items())],
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        self._fitted = FittedSection(self.section, None if s["fit"] is None else Fit(**s["fit"]))
        self._committee = None
        if s["committee"] is not None:
            self._open_committee()
            if self._committee is not None:
                self._committee.restore(s["committee"])
        self._hour, self._row_hour, self._historical = s["hour"], s["row_hour"], s["historical"]
        self._sum, self._count, self._first_level = s["sum"], s["count"], s["first_level"]
        self._last, self._run = s["last"], s["run"]
        self._rows, self._means = list(s["rows"]), list(s["means"])
        self._repairs = [list(r) for r in s["repairs"]]
        self._told = {k: v for k, *v in s["told"]}


_FIT = ("roughness", "weights", "scale", "signatures", "noise_own", "noise_shared", "usual")
