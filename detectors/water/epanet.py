"""One section of a utility's network in the EPANET engine: pressures and flows for a load, and how they answer to more demand anywhere.

A section is what hangs together when the network is cut at its metered pumps (`detectors.water.sections`): the pump is taken out, and its measured
flow is drawn at its suction side. What is computed here is steady: one load, one solution, without controls.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import FloatArray
from detectors.water.sections import Section
from underway.model import InternalError

# EPANET 2.2 toolkit codes (epanet2_enums.h)
EN_TANKLEVEL, EN_PRESSURE, EN_FLOW, EN_ROUGHNESS = 8, 11, 8, 2
EN_INITFLOW = 10
WARNINGS_BELOW = 100
PROBE_M3PH = 2.0
HEAD_ACCURACY = 1e-5


@dataclass(frozen=True, slots=True)
class Answer:
    """How the signals of a section answer, at one load.

    Attributes
    ----------
    signal : ndarray, shape (m,)
        Pressures of the gauges in m, then flows of the metered links in m3/h.
    per_m3ph : ndarray, shape (n, m)
        Change of each signal for 1 m3/h more drawn at each node of the section.
    flow_m3ph : ndarray, shape (p,)
        Flow in each pipe of the section, in its own direction.
    share : ndarray, shape (n,)
        Part of the nominal demand that is drawn at each node; sums to 1 (all 0 where customers are metered).
    """

    signal: FloatArray
    per_m3ph: FloatArray
    flow_m3ph: FloatArray
    share: FloatArray


class Engine:
    """EPANET with one section loaded.

    Parameters
    ----------
    section : Section
        Its model is written to a temporary file, which the engine reads.

    Raises
    ------
    InternalError
        When EPANET refuses a call; the message names the call and EPANET's code.

    Notes
    -----
    Cost of a solution 0.3 to 1 ms for 800 pipes on one core. Nothing that a solution which begins anew depends on stays in the engine but the
    roughness, which `set_roughness` sets.
    """

    def __init__(self, section: Section) -> None:
        import wntr
        from wntr.epanet.toolkit import ENepanet

        self.section = section
        self._folder = tempfile.TemporaryDirectory(prefix="underway-epanet-")
        path = Path(self._folder.name)
        wntr.network.write_inpfile(section.build(HEAD_ACCURACY), str(path / "section.inp"), units="CMH")
        self._toolkit = ENepanet(version=2.2)
        self._toolkit.ENopen(*(str(path / f"section.{end}") for end in ("inp", "rpt", "bin")))
        self._lib, self._project = self._toolkit.ENlib, self._toolkit._project
        self._call("EN_openH")
        self._pattern = {name: self._index("EN_getpatternindex", name) for name in section.patterns}
        self._node = [self._index("EN_getnodeindex", name) for name in section.nodes]
        self._pipe = [self._index("EN_getlinkindex", name) for name in section.pipes]
        self._gauge = [self._index("EN_getnodeindex", name) for name in section.gauges]
        self._meter = [self._index("EN_getlinkindex", name) for name in section.metered_links]
        self._tank = {name: self._index("EN_getnodeindex", name) for name in section.tanks}
        self._value = ctypes.c_double()
        self.roughness = np.array([self._get("EN_getlinkvalue", i, EN_ROUGHNESS) for i in self._pipe])

    def close(self) -> None:
        """Give the engine's memory and its file back."""
        self._call("EN_closeH")
        self._toolkit.ENclose()
        self._folder.cleanup()

    def _call(self, name: str, *values: Any) -> None:
        code = getattr(self._lib, name)(self._project, *values)
        if code >= WARNINGS_BELOW:
            raise InternalError(f"{name}{values!r} must succeed on section {self.section.name!r}, got EPANET error {code}")

    def _index(self, call: str, name: str) -> int:
        index = ctypes.c_int()
        self._call(call, name.encode(), ctypes.byref(index))
        return index.value

    def _get(self, call: str, index: int, code: int) -> float:
        value = ctypes.c_double()
        self._call(call, index, code, ctypes.byref(value))
        return value.value

    def set_roughness(self, roughness: FloatArray) -> None:
        """Set the Hazen-Williams coefficient (or what else the model uses) of every pipe of the section."""
        self.roughness = np.asarray(roughness, np.float64).copy()
        for index, value in zip(self._pipe, self.roughness.tolist(), strict=True):
            self._call("EN_setlinkvalue", index, EN_ROUGHNESS, ctypes.c_double(value))

    def load(self, patterns: Mapping[str, float], levels_m: Mapping[str, float], customers_m3ph: Sequence[float] | FloatArray = ()) -> None:
        """Set the load: multipliers of the section's patterns, levels of its tanks in m, and the flow of each metered customer in m3/h."""
        set_pattern, set_node, project = self._lib.EN_setpatternvalue, self._lib.EN_setnodevalue, self._project
        for name, index in self._pattern.items():
            set_pattern(project, index, 1, ctypes.c_double(patterns.get(name, 0.0)))
        for name, index in self._tank.items():
            set_node(project, index, EN_TANKLEVEL, ctypes.c_double(levels_m[name]))
        for place, value in zip(self.section.customer_places, customers_m3ph, strict=True):
            self.draw(place, float(value))

    def draw(self, place: int, flow_m3ph: float) -> None:
        """Set what is drawn at a node beyond its nominal demand: its first category, see `Section.build`."""
        self._lib.EN_setbasedemand(self._project, self._node[place], 1, ctypes.c_double(flow_m3ph))

    def solve(self, *, anew: bool = False) -> FloatArray:
        """Return pressures of the gauges (m) and flows of the metered links (m3/h) for the load; NaN where EPANET finds no balance.

        `anew` begins from EPANET's own first guess, so that the last digit does not depend on what was solved before.
        """
        lib, project, value = self._lib, self._project, self._value
        lib.EN_initH(project, EN_INITFLOW if anew else 0)
        elapsed = ctypes.c_long()
        code = lib.EN_runH(project, ctypes.byref(elapsed))
        reference = ctypes.byref(value)
        found = np.empty(len(self._gauge) + len(self._meter))
        if code != 0 and code != 6:  # 6: negative pressures, which a load of the learning days may well show
            found[:] = np.nan
            return found
        i = 0
        for index in self._gauge:
            lib.EN_getnodevalue(project, index, EN_PRESSURE, reference)
            found[i] = value.value
            i += 1
        for index in self._meter:
            lib.EN_getlinkvalue(project, index, EN_FLOW, reference)
            found[i] = value.value
            i += 1
        return found

    def answer(self, customers_m3ph: Sequence[float] | FloatArray = ()) -> Answer:
        """Return how the signals answer at the present load, by drawing a little more at one node after the other; O(n) solutions."""
        base = self.solve()
        flow = np.array([self._get("EN_getlinkvalue", i, EN_FLOW) for i in self._pipe])
        drawn = dict(zip(self.section.customer_places, (float(c) for c in customers_m3ph), strict=True))
        per = np.empty((len(self._node), len(base)))
        for place in range(len(self._node)):
            usual = drawn.get(place, 0.0)
            self.draw(place, usual + PROBE_M3PH)
            per[place] = (self.solve() - base) / PROBE_M3PH
            self.draw(place, usual)
        return Answer(base, per, flow, self.section.share_of(self.factors()))

    def factors(self) -> Mapping[str, float]:
        """Return the multipliers of the section's patterns, as they are now."""
        factors = {}
        for name, index in self._pattern.items():
            self._call("EN_getpatternvalue", index, 1, ctypes.byref(self._value))
            factors[name] = self._value.value
        return factors


def week_profile(multipliers: Sequence[float] | NDArray[np.float64], step_s: float) -> FloatArray:
    """Return a pattern as 168 means, one an hour of the week, which it begins with.

    Examples
    --------
    A pattern of a day in steps of 12 h is repeated:

    >>> week_profile([1.0, 3.0], 43_200.0)[[0, 11, 12, 24, 167]].tolist()
    [1.0, 1.0, 3.0, 1.0, 3.0]
    """
    values = np.asarray(multipliers, np.float64)
    at_s = np.arange(168 * 60) * 60.0
    return np.asarray(values[(at_s // step_s).astype(np.int64) % len(values)].reshape(168, 60).mean(1), np.float64)
