from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.clocks import OFFSET_US_MAX, ClockBook
from underway.model import HOUR_US, SECOND_US

MINUTE_US = 60 * SECOND_US


def feed(book: ClockBook, ahead_us: list[int], device: int = 0, every_us: int = MINUTE_US, start_us: int = 0) -> int:
    for i, ahead in enumerate(ahead_us):
        book.learn(np.array([device]), np.array([ahead]), np.array([start_us + i * every_us]))
    return int(book.offset_ms(np.array([device]))[0])


def test_clock_four_agreeing_messages_are_not_believed_the_fifth_is() -> None:
    assert feed(ClockBook(1), [HOUR_US] * 4) == 0
    assert feed(ClockBook(1), [HOUR_US] * 5) == 3_600_000


def test_clock_five_messages_at_once_are_one_witness() -> None:
    assert feed(ClockBook(1), [HOUR_US] * 5, every_us=0) == 0


@pytest.mark.parametrize("every_s", [0.1, 1.0, 2.0, 2.4, 2.5, 7.0])
def test_clock_of_a_device_that_sends_often_is_believed_within_half_a_minute(every_s: float) -> None:
    assert feed(ClockBook(1), [HOUR_US] * int(30 / every_s + 2), every_us=int(every_s * SECOND_US)) == 3_600_000


def test_clock_pairs_survive_a_change_of_the_registry() -> None:
    before, after = ClockBook(2), ClockBook(3)
    feed(before, [HOUR_US] * 4, device=1)
    after.carry(np.array([2]), before, np.array([1]))
    assert feed(after, [HOUR_US], device=2, start_us=HOUR_US) == 3_600_000


def test_clock_delays_on_the_way_do_not_lower_the_estimate() -> None:
    assert feed(ClockBook(1), [HOUR_US - s * SECOND_US for s in (3, 0, 20, 7, 1)]) == 3_600_000


def test_clock_buffer_that_catches_up_after_an_outage_changes_nothing() -> None:
    book = ClockBook(1)
    assert feed(book, [HOUR_US] * 5) == 3_600_000
    assert feed(book, [-2 * HOUR_US + i * 10 * MINUTE_US for i in range(15)], every_us=SECOND_US, start_us=HOUR_US) == 3_600_000


def test_clock_that_was_set_right_is_believed_again_after_five_messages() -> None:
    book = ClockBook(1)
    feed(book, [HOUR_US] * 5)
    assert feed(book, [-SECOND_US] * 4, start_us=HOUR_US) == 3_600_000
    assert feed(book, [-SECOND_US], start_us=2 * HOUR_US) == 0


def test_clock_behind_is_a_slow_way() -> None:
    assert feed(ClockBook(1), [-HOUR_US] * 9) == 0


def test_clock_of_the_year_2036_is_no_clock() -> None:
    assert feed(ClockBook(1), [OFFSET_US_MAX + 1] * 9) == 0


def test_clock_restored_offset_is_corrected_like_a_learned_one() -> None:
    book = ClockBook(2)
    book.restore(1, 3_600_000)
    assert book.offset_ms(np.array([0, 1])).tolist() == [0, 3_600_000]
    assert feed(book, [0] * 5, device=1) == 0


@given(
    pairs=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, -SECOND_US, HOUR_US, HOUR_US + SECOND_US, -HOUR_US, 2 * OFFSET_US_MAX])),
        max_size=60,
    ),
    cuts=st.sets(st.integers(0, 60)),
)
def test_clock_batches_of_any_size_learn_the_same_ring(pairs: list[tuple[int, int]], cuts: set[int]) -> None:
    one, many = ClockBook(4), ClockBook(4)
    device, ahead = np.array([d for d, _ in pairs], np.int64), np.array([a for _, a in pairs], np.int64)
    received = np.arange(len(pairs), dtype=np.int64) * SECOND_US
    edges = [0, *sorted(c for c in cuts if c < len(pairs)), len(pairs)]
    for i in range(len(pairs)):
        one.learn(device[i : i + 1], ahead[i : i + 1], received[i : i + 1])
    for start, stop in itertools.pairwise(edges):
        many.learn(device[start:stop], ahead[start:stop], received[start:stop])
    assert (one._ahead_us == many._ahead_us).all()
    assert (one._received_us == many._received_us).all()
    assert (one._next == many._next).all()
    assert (one._bucket == many._bucket).all()
