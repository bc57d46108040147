from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underway.store.pgcopy import HEADER, PG_EPOCH_US, TRAILER, Kind, decode, encode

INSTANTS = st.integers(-(10**15), 4 * 10**15)


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**15), 2**15 - 1),
            st.integers(-(2**31), 2**31 - 1),
            INSTANTS,
            st.floats(allow_nan=False),
            st.integers(-(2**63), 2**63 - 1),
        )
    )
)
def test_decode_of_what_encode_wrote_returns_the_same_columns(rows: list[tuple[int, int, int, float, int]]) -> None:
    kinds = {"a": Kind.INT2, "b": Kind.INT4, "c": Kind.INSTANT, "d": Kind.FLOAT8, "e": Kind.INT8}
    dtypes = (np.int16, np.int32, np.int64, np.float64, np.int64)
    columns = {name: np.array([row[i] for row in rows], dtypes[i]) for i, name in enumerate(kinds)}
    data = HEADER + encode([(kinds[name], column) for name, column in columns.items()], len(rows)) + TRAILER
    found = decode(data, kinds)
    for name, column in columns.items():
        assert found[name].dtype == column.dtype
        np.testing.assert_array_equal(found[name], column)


def test_encode_of_one_row_is_what_the_manual_says() -> None:
    text = np.array([b"abc"], "S3")
    data = encode([(Kind.INT4, np.array([7])), (Kind.INSTANT, np.array([PG_EPOCH_US + 5])), (Kind.TEXT, text)], 1)
    assert data == struct.pack(">hiiiqi3s", 3, 4, 7, 8, 5, 3, b"abc")


def test_encode_of_a_column_of_length_one_repeats_it() -> None:
    repeated = encode([(Kind.INT2, np.array([1, 2, 3])), (Kind.INT8, np.array([9]))], 3)
    assert repeated == encode([(Kind.INT2, np.array([1, 2, 3])), (Kind.INT8, np.array([9, 9, 9]))], 3)


@pytest.mark.parametrize(
    "data", [b"", HEADER, HEADER + b"\x00" + TRAILER, b"x" * (len(HEADER) + len(TRAILER))], ids=["empty", "cut", "odd", "foreign"]
)
def test_decode_of_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="a COPY stream must have 8 bytes a row"):
        decode(data, {"a": Kind.INT2})


def test_decode_of_a_null_is_refused() -> None:
    null = struct.pack(">hih", 1, -1, 0)
    with pytest.raises(ValueError, match="a COPY stream of a must not hold nulls"):
        decode(HEADER + null + TRAILER, {"a": Kind.INT2})
