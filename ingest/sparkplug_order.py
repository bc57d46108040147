"""The sequence numbers of one Sparkplug edge node: 0..255 and round again, over all its births, data and device deaths."""

from __future__ import annotations

from ingest.sparkplug_message import SEQ_COUNT, Seen

AHEAD_MAX = SEQ_COUNT // 2
"""A number less than this ahead of the newest is newer; any other is older or came twice."""


class Order:
    """Counts the messages of one node; at most 255 are known to be missing.

    Attributes
    ----------
    head : int or None
        The newest number; None before a birth gave one to count from.
    missing : dict of int to int
        Number -> since when it is missed, microseconds since 1970; the oldest first.
    skipped : int
        How many messages the last one showed to be missing.

    Examples
    --------
    >>> order = Order()
    >>> order.restart(254)
    >>> [order.count(seq, 0).value for seq in (255, 0, 3, 2, 3, 1)]
    ['in_order', 'in_order', 'gap_opened', 'out_of_order', 'out_of_order', 'gap_filled']
    """

    __slots__ = ("head", "missing", "skipped")

    def __init__(self) -> None:
        self.head: int | None = None
        self.missing: dict[int, int] = {}
        self.skipped = 0

    def restart(self, seq: int | None) -> None:
        """Count from `seq`, the number of a birth, or from nothing."""
        self.head = seq
        self.missing.clear()

    def count(self, seq: int, received_us: int) -> Seen:
        """Count one message in, and return what its number means."""
        self.skipped = 0
        if self.head is None:
            return Seen.UNBORN
        step = (seq - self.head) % SEQ_COUNT
        if step == 1 and not self.missing:
            self.head = seq
            return Seen.IN_ORDER
        if self.missing.pop(seq, None) is not None and not 1 <= step < AHEAD_MAX:
            return Seen.OUT_OF_ORDER if self.missing else Seen.GAP_FILLED
        if not 1 <= step < AHEAD_MAX:
            return Seen.OUT_OF_ORDER
        passed = [(self.head + i) % SEQ_COUNT for i in range(1, step)]
        self.head = seq
        self.skipped = len(passed)
        # the counter came round: what is still missing from the last round will not come
        lapped = not self.missing.keys().isdisjoint(passed)
        for number in passed:
            self.missing.setdefault(number, received_us)
        if lapped:
            return Seen.LAPPED
        return Seen.GAP_OPENED if passed else Seen.AHEAD_OF_GAP

    def missed_since_us(self) -> int | None:
        """Return since when the oldest missing message is missed, or None."""
        return next(iter(self.missing.values()), None)
