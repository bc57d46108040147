"""``underway bench ingest``: everything side by side in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from underway.app.bench.figures import Bound, Gate, GateReason, Part
from underway.app.bench.latency import latency
from underway.app.bench.memory import memory
from underway.app.bench.native import NativeTown, build_native, one_reading
from underway.app.bench.options import BenchOptions
from underway.app.bench.packs import PackTown, build_packs, pack_senml, pack_sparkplug
from underway.app.bench.place import Budget, Place, bench_place
from underway.app.bench.prepared import Say
from underway.app.bench.town import Mix
from underway.model import StoreUnavailable

WEIGHTS = {"one-reading": 4.0, "pack-senml": 2.5, "pack-sparkplug": 2.0, "latency": 2.5, "memory": 6.0}
"""Shares of the time, in the order in which parts run: the native town is measured while its detectors are fresh."""
REALISTIC_FROM_S = 300.0
"""From this time on the realistic mix is measured too."""


def run_bench(options: BenchOptions, say: Say) -> dict[str, Any]:
    """Run the parts and return everything that was measured, as plain values; ``ok`` says whether every gate holds."""
    began_s = time.perf_counter()
    weights = {name: weight for name, weight in WEIGHTS.items() if name in options.parts}
    realistic = "memory" in weights and options.seconds >= REALISTIC_FROM_S
    if realistic:
        weights["memory-realistic"] = WEIGHTS["memory"]
    say("starting the broker and the database")
    with bench_place(options.database_url or None, options.broker, options.profile) as place:
        parts = _Runner(place, options, Budget(options.seconds, weights, began_s), say).run()
        return {
            "ok": all(part.is_pass for part in parts),
            "versions": place.versions(),
            "machine": place.machine(),
            "settings": {
                "seconds": options.seconds,
                "scale": round(options.scale, 3),
                "repetitions": options.repetitions,
                "parts": [part.name for part in parts],
                "database": {name: place.facts[name] for name in sorted(place.facts) if name != "backend_pid"},
                "under_profile": place.profile is not None,
            },
            "wall_s": round(time.perf_counter() - began_s, 1),
            "parts": {part.name: part.facts() for part in parts},
        }


class _Runner:
    """Runs parts one after the other; towns are built when the first part needs them."""

    def __init__(self, place: Place, options: BenchOptions, budget: Budget, say: Say) -> None:
        self._place, self._options, self._budget, self._say = place, options, budget, say
        self._native: NativeTown | None = None
        self._packs: PackTown | None = None

    def run(self) -> list[Part]:
        """Return the parts; one that breaks down fails and says why, the others go on."""
        steps: dict[str, Callable[[float], Part]] = {
            "one-reading": lambda until_s: one_reading(self._native_town(until_s), until_s, self._say),
            "latency": lambda until_s: latency(self._native_town(until_s), self._say),
            "pack-senml": lambda until_s: pack_senml(self._place, self._options, self._pack_town(until_s), until_s, self._say),
            "pack-sparkplug": lambda until_s: pack_sparkplug(self._place, self._options, self._pack_town(until_s), until_s, self._say),
            "memory": lambda until_s: memory(self._place, self._options, until_s, self._say),
            "memory-realistic": lambda until_s: memory(self._place, self._options, until_s, self._say, Mix.REALISTIC),
        }
        found: list[Part] = []
        for name, step in steps.items():
            if name not in self._budget.weights:
                continue
            began_s = time.perf_counter()
            until_s = self._budget.deadline_s(name)
            try:
                if began_s > self._budget.ends_s:
                    raise StoreUnavailable("the time of the run was used up before this part began")
                part = step(until_s)
            except Exception as error:
                part = Part(name, "broke down")
                part.gates = [Gate("measured", None, Bound.AT_LEAST, 1.0, flaw=GateReason.NOT_MEASURED)]
                part.notes.append(f"{type(error).__name__}: {error}")
            part.name = name
            part.wall_s = time.perf_counter() - began_s
            found.append(part)
        return found

    def _native_town(self, until_s: float) -> NativeTown:
        if self._native is None:
            self._native = build_native(self._place, self._options, _half_way(until_s), self._say)
        return self._native

    def _pack_town(self, until_s: float) -> PackTown:
        if self._packs is None:
            self._packs = build_packs(self._place, self._options, _half_way(until_s), self._say)
        return self._packs


def _half_way(until_s: float) -> float:
    """Return the instant at which learning must have ended, to leave time for measuring."""
    now_s = time.perf_counter()
    return now_s + 0.5 * max(0.0, until_s - now_s)
