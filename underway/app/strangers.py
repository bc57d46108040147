"""Devices that speak and are not registered: counted in memory, noted for an engineer once in a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ingest.decoded import Decoded
from underway.app.intake import Item
from underway.model import SECOND_US, from_us
from underway.store.pending import CHANNELS_MAX, PendingEntry

NOTE_EVERY_US = 60 * SECOND_US
STRANGERS_MAX = 2_000
"""Devices that are remembered between two notes; a further one is noted at once, and the one silent longest forgotten."""


class Strangers:
    """Says which messages are worth a row for an engineer.

    The first of a device, what announces it, what shows a new channel, and then one a minute with the count.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], tuple[int, int, frozenset[str]]] = OrderedDict()

    def note(self, item: Item, is_registered: Callable[[str, str], bool], site_id: str) -> PendingEntry | None:
        """Return what to note of a message of an unknown device, or None: it is registered, or was noted a moment ago."""
        decoded, address = item.decoded, item.decoded.device
        if address is None or is_registered(item.dialect, address):
            return None
        key = item.dialect, address
        noted_us, count, noted = self._seen.get(key, (0, 0, frozenset()))
        told = decoded.announcement
        announced = told is not None and told.kind != "uplink"
        news = len(noted) < CHANNELS_MAX and not noted.issuperset(decoded.channel)
        if noted_us and not announced and not news and 0 <= item.received_us - noted_us < NOTE_EVERY_US:
            self._seen[key] = noted_us, count + 1, noted
            return None
        self._seen[key] = item.received_us, 0, noted.union(decoded.channel[:CHANNELS_MAX])
        self._seen.move_to_end(key)
        if len(self._seen) > STRANGERS_MAX:
            self._seen.popitem(last=False)
        at = from_us(item.received_us)
        return PendingEntry(
            item.dialect,
            address,
            "uplink" if told is None else told.kind,
            at,
            at,
            item.message.topic,
            count + 1,
            decoded.site_id if decoded.site_id == site_id else None,
            "" if told is None else told.model,
            {} if told is None else told.details,
            _channels(decoded),
        )


def _channels(decoded: Decoded) -> dict[str, dict[str, str | float]]:
    """Return the channels of a message by address, each with its unit and an example as far as they are known."""
    found: dict[str, dict[str, str | float]] = {}
    if decoded.announcement is not None:
        for channel in decoded.announcement.channels[:CHANNELS_MAX]:
            found[channel.address] = {} if channel.unit is None else {"unit": channel.unit}
    units = decoded.unit or (None,) * len(decoded)
    for name, value, unit in zip(decoded.channel, decoded.value, units, strict=True):
        if name not in found and len(found) >= CHANNELS_MAX:
            continue
        entry = found.setdefault(name, {})
        entry["example"] = float(value)
        if unit is not None:
            entry["unit"] = unit
    return found
