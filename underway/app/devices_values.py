"""The values of one record of a file: texts, numbers, words, instants, references, places. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from underway.app.devices_fields import ATTRIBUTE_NUMBERS, NAME_CHARS_MAX
from underway.app.devices_read import DEPTH_MAX, Problems, Record, is_deep, json_or_text, nearest, shown

ATTRIBUTES_MAX = 100
POSITIONS_MAX = 100_000
ID_CHARS_MAX = 200
KNOWN_SHOWN_MAX = 10
GEOMETRY_TYPES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon")
_DEPTH = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}

_PLACE = {"latitude", "longitude", "geometry"}

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class Absent:
    """Said nothing about; None is said to be none."""


ABSENT = Absent()


def said(value: T | Absent, before: T) -> T:
    """Return what is said, else what was before."""
    return before if isinstance(value, Absent) else value


class Fields:
    """Reads the fields of one record; what is wrong becomes a problem, and reads as absent."""

    def __init__(self, record: Record, names: Sequence[str], problems: Problems, what: str) -> None:
        self.record, self._problems = record, problems
        for name in record.fields:
            if name not in names and not (name.startswith("attributes.") and "attributes" in names):
                problems.add(record.where(name), name, f"a field of {what} must be known, got {shown(name)}{nearest(name, names)}")

    def bad(self, name: str, message: str) -> None:
        """Add a problem of one field."""
        self._problems.add(self.record.where(name), name, message)

    def raw(self, name: str) -> Any:
        """Return what stands there, `ABSENT` when nothing does."""
        return self.record.fields.get(name, ABSENT)

    def text(self, name: str, chars_max: int = NAME_CHARS_MAX) -> str | Absent | None:
        """Return a text of one line."""
        value = self.record.fields.get(name, ABSENT)
        if value is ABSENT or value is None:
            return value
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.bad(name, f"'{name}' must be a text, got {shown(value)}")
            return ABSENT
        text = str(value)
        if not text or len(text) > chars_max or not text.isprintable():
            self.bad(name, f"'{name}' must be a text of 1..{chars_max} printable characters, got {shown(text)}")
            return ABSENT
        return text

    def number(self, name: str, unit: str, low: float = -math.inf, high: float = math.inf) -> float | Absent:
        """Return a number in `low` .. `high`; infinite ones only where no bound stands."""
        value = self.record.fields.get(name)
        if value is None:
            return ABSENT
        in_unit = f" in {unit}" if unit else ""
        try:
            found = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            found = math.nan
        if math.isnan(found):
            hint = ""
            if isinstance(value, str) and value.count(",") == 1 and "." not in value:
                hint = f"; write {value.replace(',', '.')} (with a point)"
            self.bad(name, f"'{name}' must be a number{in_unit}, got {shown(value)}{hint}")
            return ABSENT
        if not low <= found <= high:
            bounds = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
            self.bad(name, f"'{name}' must be {bounds}{in_unit}, got {shown(value)}")
            return ABSENT
        return found

    def choice(self, name: str, options: Sequence[str]) -> str | Absent | None:
        """Return one of some words."""
        value = self.raw(name)
        if value is ABSENT or value is None:
            return value
        if value in options:
            return str(value)
        hint = nearest(value, options) if isinstance(value, str) else ""
        self.bad(name, f"'{name}' must be one of {', '.join(options)}, got {shown(value)}{hint}")
        return ABSENT

    def enum(self, name: str, kind: type[E]) -> E | Absent:
        """Return a member of an enum."""
        if name not in self.record.fields:
            return ABSENT
        found = self.choice(name, [member.value for member in kind])
        return kind(found) if isinstance(found, str) else ABSENT

    def instant(self, name: str, timezone: str) -> datetime | Absent:
        """Return an aware instant; a day alone is its first moment at the site."""
        value = self.raw(name)
        if value is ABSENT or value is None:
            return ABSENT
        try:
            if isinstance(value, str) and len(value) == 10:
                return datetime.combine(date.fromisoformat(value), time(), ZoneInfo(timezone)).astimezone(UTC)
            found = datetime.fromisoformat(value) if isinstance(value, str) else None
            if found is not None and found.tzinfo is not None:
                return found.astimezone(UTC)
        except ValueError:
            pass
        except OverflowError:
            self.bad(name, f"'{name}' must be in the years 1 to 9999 of UTC, got {shown(value)}")
            return ABSENT
        self.bad(name, f"'{name}' must be an RFC 3339 instant with zone, or a day like 2026-03-01, got {shown(value)}")
        return ABSENT

    def reference(self, name: str, known: Mapping[str, object], what: str) -> str | Absent | None:
        """Return the id of something that is registered or stands in the file."""
        value = self.text(name, ID_CHARS_MAX)
        if isinstance(value, str) and value not in known:
            hint = nearest(value, list(known))
            if not known:
                hint = f"; no {what} is registered for this site"
            elif not hint and len(known) <= KNOWN_SHOWN_MAX:
                hint = f"; known: {', '.join(sorted(known))}"
            article = "an" if what[0] in "aeiou" else "a"
            self.bad(name, f"'{name}' must be {article} {what} that is registered, got {shown(value)}{hint}")
            return ABSENT
        return value

    def geometry(self) -> Mapping[str, Any] | Absent | None:
        """Return the GeoJSON geometry of ``geometry``, or the point of ``latitude`` and ``longitude``."""
        if not self.record.fields.keys() & _PLACE:
            return ABSENT
        latitude, longitude = self.number("latitude", "degrees", -90, 90), self.number("longitude", "degrees", -180, 180)
        given = self.raw("geometry")
        said = [self.raw(name) is not ABSENT for name in ("latitude", "longitude")]
        if any(said):
            if not all(said):
                missing = "longitude" if said[0] else "latitude"
                self.bad(missing, "'latitude' and 'longitude' must come together, got only one of them")
            elif isinstance(given, dict):
                self.bad("geometry", "a place must be either 'geometry' or 'latitude' and 'longitude', got both")
            elif not isinstance(latitude, Absent) and not isinstance(longitude, Absent):
                return {"type": "Point", "coordinates": [longitude, latitude]}
            return ABSENT
        if given is ABSENT or given is None:
            return given
        wrong = _geometry_problem(given)
        if wrong is not None:
            self.bad("geometry", f"'geometry' must be {wrong}")
            return ABSENT
        return {"type": given["type"], "coordinates": given["coordinates"]}

    def attributes(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes: those before, with what is said now; null takes one away."""
        found = dict(before)
        given = self.raw("attributes")
        said: dict[str, Any] = {}
        if isinstance(given, dict):
            said.update(given)
        elif given is not ABSENT and given is not None:
            self.bad("attributes", f"'attributes' must be a mapping of names to values, got {shown(given)}")
        for name, value in self.record.fields.items():
            if name.startswith("attributes."):
                said[name.removeprefix("attributes.")] = json_or_text(value) if isinstance(value, str) else value
        for name, value in said.items():
            if not name or len(name) > NAME_CHARS_MAX or not name.isprintable():
                self.bad("attributes", f"the name of an attribute must have 1..{NAME_CHARS_MAX} printable characters, got {shown(name)}")
            elif isinstance(value, str) and "\x00" in value:
                self.bad("attributes", f"the attribute '{name}' must be a text without zero bytes, got {shown(value)}")
            elif is_deep(value):
                self.bad("attributes", f"the attribute '{name}' must have at most {DEPTH_MAX} levels of lists and mappings, got more")
            elif value is None:
                found.pop(name, None)
            elif (wrong := _attribute_problem(name, value)) is not None:
                self.bad("attributes", wrong)
            else:
                found[name] = value
        if len(found) > ATTRIBUTES_MAX:
            self.bad("attributes", f"there must be at most {ATTRIBUTES_MAX} attributes, got {len(found)}")
        return found


def _attribute_problem(name: str, value: object) -> str | None:
    """Return what is wrong with an attribute that detectors read, else None."""
    if name not in ATTRIBUTE_NUMBERS:
        return None
    unit, low, high = ATTRIBUTE_NUMBERS[name]
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return None
    return f"the attribute '{name}' must be a number in {low:g}..{high:g}{unit}, got {shown(value)}"


def _geometry_problem(geometry: object) -> str | None:
    if not isinstance(geometry, dict) or geometry.get("type") not in GEOMETRY_TYPES:
        return f"a GeoJSON geometry of the type {', '.join(GEOMETRY_TYPES)}, got {shown(geometry)}"
    level: list[Any] = [geometry.get("coordinates")]
    for _ in range(_DEPTH[geometry["type"]]):
        if not all(isinstance(part, list) and part for part in level):
            return f"a {geometry['type']} with its 'coordinates', got {shown(geometry.get('coordinates'))}"
        level = [item for part in level for item in part]
        if len(level) > POSITIONS_MAX:
            return f"of at most {POSITIONS_MAX} positions, got more"
    for position in level:
        numbers = isinstance(position, list) and 2 <= len(position) <= 4
        if not numbers or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in position):
            return f"a {geometry['type']} with positions of longitude and latitude, got {shown(position)}"
        if not (abs(position[0]) <= 180 and abs(position[1]) <= 90):
            return f"in degrees, longitude first (WGS 84), got the position {shown(position)}"
    return None
