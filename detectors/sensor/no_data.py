"""Silence: devices, gateways, zones or a whole site from which nothing comes any more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from detectors.contract import NEVER_US, BankOutput, BoolArray, IntArray, OutputWriter, Rows
from detectors.segments import Once, first_of_each, newest_before
from detectors.snapshot import pack, unpack
from underway.model import (
    HOUR_US,
    MINUTE_US,
    Channel,
    Device,
    Driver,
    Evidence,
    Finding,
    FindingKind,
    FindingPhase,
    Hold,
    Registry,
    Signal,
    finding_id,
    from_us,
)

SILENT_INTERVALS = 6
SILENT_US_MIN = 30 * MINUTE_US
IRREGULAR_ROLES = frozenset({"roughness"})
IRREGULAR_INTERVALS = 48
GROUP_MIN = 3
GROUP_SHARE = 0.8
GROUP_CLEAR_SHARE = 0.5
SITE_SILENT_US = 2 * HOUR_US
LOOK_US = 5 * MINUTE_US


@dataclass(slots=True)
class _Lost:
    onset_us: int
    members: int


class NoData:
    """Find devices that went silent, and say it once for what they have in common.

    Parameters
    ----------
    registry : Registry
        Devices with their zones; ``Device.attributes["gateway_id"]`` (or ``gateway``) names the gateway that a device talks through.

    Notes
    -----
    A device is silent when the newest live reading of its site is further ahead of its own newest reading, in event time and in time of reception,
    than ``max(30 min, 6 intervals)`` of its fastest channel (48 intervals for probe vehicles, which pass when they pass). So silence is measured
    against what others say, and a pause of the pipeline is nobody's silence. It is looked at whenever event time passes a multiple of 5 min. If at
    least 3 members and 80 % of a gateway or of a zone are silent, the finding is the gateway's (``gateway:<id>``) or the zone's (``zone:<id>``) and
    its devices do not speak on their own; else it is the device's (``device:<id>``). When everything is silent there is no event time: `tick` then
    speaks for the site (``site:<id>``) after 2 h. A finding clears with readings, for a group when less than half is silent. History (late or
    historical readings) is never looked at. Readings may come in any order: one that is not newer than the newest of its device says nothing, so
    that a duplicate received again is no sign of life. Cost: a sort a batch, some passes over the devices each 5 min of event time. State 17 bytes
    a device, and some 200 for one that is silent.

    Blind to: a device that never sent anything, one channel of a device that sends the others, two silent zones (two findings, not one).

    Examples
    --------
    Two loggers send every 5 min; the second stops after an hour. It is missed 30 min after its last reading.

    >>> from underway.model import EPOCH_AT, Quantity, Site
    >>> devices = tuple(Device(f"pr-{i}", "town", "z1", None, "logger", "native", EPOCH_AT) for i in (1, 2))
    >>> channels = [Channel(i, f"pr-{i}", "pressure", Quantity.PRESSURE, "kPa", None, "z1", "zone_pressure", 0, 900, 300) for i in (1, 2)]
    >>> watch = NoData(Registry(Site("town", "Town", "UTC", 0, 0), devices=devices, channels=tuple(channels)))
    >>> minute = [(m, d) for m in range(0, 125, 5) for d in (0, 1) if d == 0 or m <= 60]
    >>> at = np.array([m for m, _ in minute]) * 60_000_000
    >>> rows = Rows(np.array([d for _, d in minute]), at, at, np.ones(len(at)), np.zeros(len(at), bool))
    >>> [(f.kind.value, f.asset_id, f.detected_us // 60_000_000) for f in watch.step(rows).findings]
    [('comms.lost', 'device:pr-2', 90)]
    """

    name = "no-data"
    version = "1"
    kinds = (FindingKind.COMMS_LOST,)
    signals: tuple[Signal, ...] = ()
    warm_up_us = 0

    def __init__(self, registry: Registry) -> None:
        self.site_id = registry.site.site_id
        self.key = f"{self.name}@{self.version}/{self.site_id}"
        channels = sorted(registry.channels, key=lambda c: c.channel_id)
        self.channels: tuple[Channel, ...] = tuple(channels)
        self.channel_ids = tuple(c.channel_id for c in channels)
        known = {d.device_id: d for d in registry.devices}
        ids = list(dict.fromkeys(c.device_id for c in channels))
        self.devices: tuple[str, ...] = tuple(ids)
        row = {d: i for i, d in enumerate(ids)}
        self._row = np.array([row[c.device_id] for c in channels], np.int32)
        limit = np.full(len(ids), 2**62, np.int64)
        for c in channels:
            times = IRREGULAR_INTERVALS if c.role in IRREGULAR_ROLES else SILENT_INTERVALS
            i = row[c.device_id]
            limit[i] = min(int(limit[i]), max(SILENT_US_MIN, round(times * c.interval_s * 1e6)))
        self.limit_us: IntArray = limit
        zone_of = {c.device_id: c.zone_id for c in reversed(channels)} | {d: known[d].zone_id for d in ids if d in known}
        self._zone_of = [zone_of[d] for d in ids]
        self._asset_of = [known[d].asset_id if d in known else None for d in ids]
        groups: dict[str, list[int]] = {}
        for i, d in enumerate(ids):
            gateway = _gateway(known.get(d))
            if gateway:
                groups.setdefault(f"gateway:{gateway}", []).append(i)
        for i, zone in enumerate(self._zone_of):
            if zone:
                groups.setdefault(f"zone:{zone}", []).append(i)
        self._groups = {k: np.array(v, np.int64) for k, v in groups.items() if len(v) >= GROUP_MIN}
        self._group_keys = tuple(self._groups)
        self._members = np.concatenate([*self._groups.values(), np.empty(0, np.int64)])
        self._group_begin = np.cumsum([0, *(len(v) for v in self._groups.values())])[:-1]
        self.state_bytes_max = 600 * len(ids) + 1000
        self.newest_us = np.full(len(ids), NEVER_US, np.int64)
        self.received_us = np.full(len(ids), NEVER_US, np.int64)
        self.front_us = NEVER_US
        self.clock_us = NEVER_US
        self.lost: dict[str, _Lost] = {}
        self._number = row
        self._once = Once(len(ids))
        self._is_lost = np.zeros(len(ids), np.bool_)

    def covers(self, hold: Hold) -> bool:
        """Return False: nothing here adapts."""
        return False

    def hold(self, hold: Hold) -> None:
        """Do nothing, see `covers`."""

    def step(self, rows: Rows) -> BankOutput:
        """Take readings; look for silence whenever live event time passes a multiple of 5 min."""
        out = OutputWriter(())
        device = self._row[rows.column]
        live = np.where(rows.historical, NEVER_US, rows.at_us) if rows.historical.any() else rows.at_us
        front = np.maximum.accumulate(np.maximum(live, self.front_us))
        before = np.empty(len(front), np.int64)
        before[0], before[1:] = self.front_us, front[:-1]
        start = 0
        for look in np.flatnonzero(front // LOOK_US > before // LOOK_US).tolist():
            # judged by what came before this reading: after a pause of everything the first to speak makes nobody silent
            self._take(device[start:look], rows.at_us[start:look], rows.received_us[start:look])
            self.front_us = int(before[look])
            start = look
            if self.front_us != NEVER_US:
                self._look(int(front[look]), out)
        self._take(device[start:], rows.at_us[start:], rows.received_us[start:])
        self.front_us = int(front[-1])
        return out.output()

    def tick(self, now_us: int) -> BankOutput:
        """Speak for the site when nothing at all came for 2 h; `now_us` is the time of a pipeline that has nothing left to read."""
        out = OutputWriter(())
        key = f"site:{self.site_id}"
        if self.clock_us != NEVER_US and key not in self.lost and now_us - self.clock_us > SITE_SILENT_US:
            known = int((self.newest_us != NEVER_US).sum())
            self.lost[key] = _Lost(self.clock_us, known)
            summary = f"Nothing came from any of the {known} devices of {self.site_id} since {from_us(self.clock_us):%d %b %H:%M} UTC"
            self._emit(
                FindingPhase.RAISE, key, None, self.clock_us + SITE_SILENT_US, float(SITE_SILENT_US), SITE_SILENT_US, summary, (), out
            )
        return out.output()

    def _take(self, device: IntArray, at: IntArray, received: IntArray) -> None:
        if not len(at):
            return
        if not self._once(device):
            order = np.argsort(device, kind="stable")
            device, at, received = device[order], at[order], received[order]
            fresh = at > np.maximum(newest_before(first_of_each(device), at), self.newest_us[device])
        else:
            fresh = at > self.newest_us[device]
        if not fresh.all():
            device, at, received = device[fresh], at[fresh], received[fresh]
            if not len(at):
                return
        np.maximum.at(self.newest_us, device, at)
        np.maximum.at(self.received_us, device, received)
        self.clock_us = max(self.clock_us, int(received.max()))

    def _silent(self) -> BoolArray:
        known = self.newest_us != NEVER_US
        return np.asarray(
            known & (self.front_us - self.newest_us > self.limit_us) & (self.clock_us - self.received_us > self.limit_us), np.bool_
        )

    def _look(self, now_us: int, out: OutputWriter) -> None:
        site = self.lost.pop(f"site:{self.site_id}", None)
        if site is not None:
            summary = f"Readings come again from {self.site_id}"
            self._emit(FindingPhase.CLEAR, f"site:{self.site_id}", None, now_us, 0.0, SITE_SILENT_US, summary, (), out, site.onset_us)
        silent = self._silent()
        if not (self.lost or silent.any()):
            return
        spoken = np.zeros(len(silent), np.bool_)
        if self._group_keys:
            self._look_at_groups(silent, spoken, out)
        for i in np.flatnonzero((silent & ~spoken) | self._is_lost).tolist():
            device = self.devices[i]
            key = f"device:{device}"
            lost = self.lost.get(key)
            if lost is None:
                self.lost[key] = _Lost(int(self.newest_us[i]), 1)
                self._is_lost[i] = True
                limit = int(self.limit_us[i])
                summary = (
                    f"Nothing came from {device} since {from_us(int(self.newest_us[i])):%d %b %H:%M} UTC; it should send at least every "
                    f"{limit // MINUTE_US} min"
                )
                at = int(self.newest_us[i]) + limit
                self._emit(
                    FindingPhase.RAISE, key, self._zone_of[i], at, float(self.front_us - self.newest_us[i]), limit, summary, (i,), out
                )
            elif not silent[i]:
                del self.lost[key]
                self._is_lost[i] = False
                summary = f"{device} sends again"
                self._emit(FindingPhase.CLEAR, key, self._zone_of[i], int(self.newest_us[i]), 0.0, 1, summary, (i,), out, lost.onset_us)

    def _look_at_groups(self, silent: BoolArray, spoken: BoolArray, out: OutputWriter) -> None:
        """Raise and clear gateways and zones; note in `spoken` whose silence they say."""
        known = self.newest_us != NEVER_US
        there_of = np.add.reduceat(known[self._members].astype(np.int64), self._group_begin)
        gone_of = np.add.reduceat(silent[self._members].astype(np.int64), self._group_begin)
        look = (there_of >= GROUP_MIN) & (gone_of >= np.maximum(GROUP_MIN, np.ceil(GROUP_SHARE * there_of)))
        look |= np.fromiter((key in self.lost for key in self._group_keys), np.bool_, len(self._group_keys))
        for number in np.flatnonzero(look).tolist():
            key, there = self._group_keys[number], int(there_of[number])
            members = self._groups[key]
            gone = members[silent[members]]
            open_group = self.lost.get(key)
            if open_group is None and not spoken[gone].all():
                self._raise_group(key, gone, there, out)
            elif open_group is not None and len(gone) < GROUP_CLEAR_SHARE * there:
                del self.lost[key]
                summary = f"{there - len(gone)} of {there} devices of {key.partition(':')[2]} send again"
                self._emit(FindingPhase.CLEAR, key, self._zone(members), self.front_us, 0.0, 1, summary, (), out, open_group.onset_us)
            if key in self.lost:
                spoken[members] = True

    def _raise_group(self, key: str, gone: IntArray, there: int, out: OutputWriter) -> None:
        onset = int(self.newest_us[gone].min())
        deadline = np.sort(self.newest_us[gone] + self.limit_us[gone])
        at = int(deadline[min(math.ceil(GROUP_SHARE * there), len(deadline)) - 1])
        self.lost[key] = _Lost(onset, len(gone))
        kind, _, name = key.partition(":")
        summary = f"{len(gone)} of {there} devices of {kind} {name} are silent since {from_us(onset):%d %b %H:%M} UTC"
        limit = int(self.limit_us[gone].max())
        self._emit(
            FindingPhase.RAISE, key, self._zone(gone), at, float(self.front_us - onset), limit, summary, tuple(gone[:3].tolist()), out
        )

    def _zone(self, members: IntArray) -> str | None:
        zones = {self._zone_of[i] for i in members.tolist()}
        return zones.pop() if len(zones) == 1 else None

    def _emit(
        self,
        phase: FindingPhase,
        asset_id: str,
        zone_id: str | None,
        at: int,
        silent_us: float,
        limit_us: int,
        summary: str,
        members: Sequence[int],
        out: OutputWriter,
        onset: int | None = None,
    ) -> None:
        begin = self.lost[asset_id].onset_us if onset is None else onset
        minutes, limit = silent_us / MINUTE_US, limit_us / MINUTE_US
        drivers = tuple(
            Driver(self.devices[i], (self.front_us - int(self.newest_us[i])) / MINUTE_US, 0.0, float(self.limit_us[i]) / MINUTE_US, "min")
            for i in members
        )
        details = {"assets": [self._asset_of[i] for i in members], "devices": [self.devices[i] for i in members]}
        evidence = Evidence(
            summary, minutes, 0.0, 0.0, limit, "min", minutes, limit, f"{self.name}@{self.version}/{asset_id}", drivers, (), details
        )
        identity = finding_id(self.name, self.version, FindingKind.COMMS_LOST, phase, asset_id, begin, at)
        score = minutes / max(limit, 1e-9)
        out.findings.append(
            Finding(identity, FindingKind.COMMS_LOST, phase, asset_id, zone_id, self.name, self.version, score, begin, at, evidence, False)
        )

    def state(self) -> bytes:
        """Return everything that the next step depends on."""
        return pack(
            {
                "devices": list(self.devices),
                "newest": self.newest_us,
                "received": self.received_us,
                "front": self.front_us,
                "clock": self.clock_us,
                "lost": {k: asdict(v) for k, v in sorted(self.lost.items())},
            }
        )

    def restore(self, state: bytes) -> None:
        """Take back what `state` returned."""
        s = unpack(state)
        self.newest_us, self.received_us, self.front_us, self.clock_us = s["newest"], s["received"], s["front"], s["clock"]
        self._take_lost(s["lost"])

    def adopt(self, state: bytes) -> None:
        """Take over what a state saved for other devices knows of those here, and of gateways and zones that are still groups."""
        s = unpack(state)
        pairs = [(old, self._number[device]) for old, device in enumerate(s["devices"]) if device in self._number]
        old, new = np.array([o for o, _ in pairs], np.int64), np.array([n for _, n in pairs], np.int64)
        self.newest_us[new], self.received_us[new] = s["newest"][old], s["received"][old]
        self.front_us, self.clock_us = s["front"], s["clock"]
        known = {f"device:{device}" for device in self.devices} | set(self._groups) | {f"site:{self.site_id}"}
        self._take_lost({k: v for k, v in s["lost"].items() if k in known})

    def _take_lost(self, saved: Mapping[str, dict[str, int]]) -> None:
        self.lost = {k: _Lost(**v) for k, v in saved.items()}
        lost = (self._number.get(key.removeprefix("device:")) for key in self.lost if key.startswith("device:"))
        self._is_lost[:] = False
        self._is_lost[[i for i in lost if i is not None]] = True


def _gateway(device: Device | None) -> str | None:
    if device is None:
        return None
    value = device.attributes.get("gateway_id", device.attributes.get("gateway"))
    return str(value) if value else None
