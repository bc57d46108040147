"""PostgreSQL's binary COPY format from and to numpy columns, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
PG_EPOCH_US = 946_684_800_000_000
"""2000-01-01T00:00Z in microseconds since 1970: where PostgreSQL counts from."""


class Kind(Enum):
    """Type of one fixed-width column, with the numpy dtype of its wire form."""

    INT2 = ("int2", ">i2")
    INT4 = ("int4", ">i4")
    INT8 = ("int8", ">i8")
    FLOAT8 = ("float8", ">f8")
    INSTANT = ("timestamptz", ">i8")
    """Given and returned as int64 microseconds since 1970."""
    TEXT = ("text", "S")
    """UTF-8 text of one byte length in all rows, given as an ``S`` array of exactly that length."""


Column = tuple[Kind, NDArray[Any]]


def encode(columns: Sequence[Column], n: int) -> bytes:
    """Return the rows (without header and trailer) of columns of length `n`.

    Parameters
    ----------
    columns : sequence of (Kind, ndarray of shape (n,) or (1,))
        In the order of the COPY statement; a column of length 1 holds for every row.
    n : int
        Number of rows.

    Returns
    -------
    bytes
        ``n * (2 + sum(4 + width))`` bytes.

    Notes
    -----
    Each row is a 16 bit field count and, for each field, a 32 bit length and the value, all big endian. With fixed widths that is a numpy
    structured dtype, so that one assignment a column writes all rows. A null has another length and does not fit: no column of ours is null.

    References
    ----------
    PostgreSQL documentation, COPY, "Binary Format".

    Examples
    --------
    >>> encode([(Kind.INT2, np.array([258]))], 1).hex(" ")
    '00 01 00 00 00 02 01 02'
    """
    dtype = _row_dtype([(kind, values.dtype.itemsize) for kind, values in columns])
    rows = np.empty(n, dtype)
    rows["fields"] = len(columns)
    for i, (kind, values) in enumerate(columns):
        rows[f"length{i}"] = dtype[f"value{i}"].itemsize
        rows[f"value{i}"] = values - PG_EPOCH_US if kind is Kind.INSTANT else values
    return rows.tobytes()


def decode(data: bytes, columns: Mapping[str, Kind]) -> dict[str, NDArray[Any]]:
    """Return the columns of a whole binary COPY stream (header, rows, trailer) in native byte order.

    Raises
    ------
    ValueError
        When `data` is not a binary COPY stream of these fixed-width columns, for instance because a value is null.
    """
    dtype = _row_dtype([(kind, 0) for kind in columns.values()])
    body = len(data) - len(HEADER) - len(TRAILER)
    if body < 0 or body % dtype.itemsize or not data.startswith(HEADER):
        raise ValueError(f"a COPY stream must have {dtype.itemsize} bytes a row, got {len(data)} bytes")
    rows = np.frombuffer(data, dtype, count=body // dtype.itemsize, offset=len(HEADER))
    if any((rows[f"length{i}"] != dtype[f"value{i}"].itemsize).any() for i in range(len(columns))):
        raise ValueError(f"a COPY stream of {', '.join(columns)} must not hold nulls")
    found: dict[str, NDArray[Any]] = {}
    for i, (name, kind) in enumerate(columns.items()):
        native = rows[f"value{i}"].astype(dtype[f"value{i}"].newbyteorder("="))
        found[name] = native + PG_EPOCH_US if kind is Kind.INSTANT else native
    return found


def _row_dtype(columns: Sequence[tuple[Kind, int]]) -> np.dtype[np.void]:
    """Return the packed dtype of one row."""
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for i, (kind, width) in enumerate(columns):
        fields += [(f"length{i}", ">i4"), (f"value{i}", f"S{width}" if kind is Kind.TEXT else kind.value[1])]
    return np.dtype(fields)
