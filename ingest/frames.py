"""Frame counters: which uplink is new, which was here before, and when a device began to count again. Pure memory, no clock."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from ingest.decoded import FrameCounter

DEVICES_MAX = 200_000
WINDOW_FRAMES = 16
SAME_FRAME_S_MAX = 5
"""Two copies of one frame, through two integrations, may differ by this much in their instant."""
RETRANSMISSION_S_MAX = 300
SESSION_CHARS_MAX = 64
STATE_VERSION = 1

_SAME_US = SAME_FRAME_S_MAX * 1_000_000
_RETRANSMISSION_US = RETRANSMISSION_S_MAX * 1_000_000
_MASK = (1 << WINDOW_FRAMES) - 1


class FrameVerdict(StrEnum):
    """What a frame counter says of its frame; only ``REPEATED`` frames are not taken."""

    NEW = "new"
    """Counts on, or the first frame of this device that we see."""
    REPEATED = "repeated"
    """The same frame once more: a redelivery, a second integration, a retransmission."""
    OUT_OF_ORDER = "out_of_order"
    """Older than the newest, and not seen before as far as the window shows."""
    REJOINED = "rejoined"
    """The first frame of a new session: the device joined again."""
    RESET = "reset"
    """Counts from the start within one session: a device without join (ABP) restarted, or a 16 bit counter ran over."""

    @property
    def taken(self) -> bool:
        """Return whether the samples of the frame count."""
        return self is not FrameVerdict.REPEATED


class _Session(NamedTuple):
    """What is remembered of one session: bit i of ``seen`` stands for counter ``newest - i``; ``newest_us`` is None without an instant."""

    session: str
    newest: int
    seen: int
    newest_us: int | None


class _Frames(NamedTuple):
    current: _Session
    previous: _Session | None


class FrameMemory:
    """Remembers the last frames of each device: the newest counter of its session and of the one before, and which of the 16 below it came.

    Parameters
    ----------
    devices_max : int
        How many devices are remembered; beyond it the device that was silent longest is forgotten, and `forgotten` counts it.

    Notes
    -----
    A lower counter in the same session is either an old frame that comes late or a device that counts from the start. The instant decides:
    an old frame was observed before the newest one, the first frame after a restart later. Without an instant (None) a counter inside the
    window is taken for the old frame, one below it for a restart.

    Cost: one look-up and one comparison a frame. State: about 250 bytes a device.

    Blind to: a device without join that restarts within 16 frames and whose network server sends no instant: until it counts beyond what
    it had counted before, those frames are taken for repeated ones. A frame older than the window that comes twice is taken twice; the key
    of the store (channel, instant) keeps it single.

    Examples
    --------
    >>> memory = FrameMemory()
    >>> memory.take("a", FrameCounter("s1", 7), 10_000_000), memory.judge("a", FrameCounter("s1", 7), 10_000_000).value
    (<FrameVerdict.NEW: 'new'>, 'repeated')
    >>> [memory.judge("a", FrameCounter(s, n), 900_000_000).value for s, n in (("s1", 8), ("s1", 0), ("s2", 0))]
    ['new', 'reset', 'rejoined']
    """

    def __init__(self, devices_max: int = DEVICES_MAX) -> None:
        self.forgotten = 0
        self._devices_max = devices_max
        self._frames: dict[str, _Frames] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def judge(self, device: str, counter: FrameCounter, observed_us: int | None = None) -> FrameVerdict:
        """Return what `counter` says, and remember nothing.

        Parameters
        ----------
        device : str
        counter : FrameCounter
        observed_us : int or None
            Instant of the frame as the network server gives it, microseconds since 1970; None when it gives none.
        """
        return _step(self._frames.get(device), counter, observed_us)[0]

    def take(self, device: str, counter: FrameCounter, observed_us: int | None = None) -> FrameVerdict:
        """Return what `counter` says, and remember it; parameters as `judge`."""
        verdict, frames = _step(self._frames.get(device), counter, observed_us)
        self._keep(device, frames)
        return verdict

    def dump(self, device: str) -> bytes | None:
        """Return what is remembered of a device, for the table ``dialect_memory``; None: nothing."""
        frames = self._frames.get(device)
        return None if frames is None else _dump(frames)

    def restore(self, device: str, state: bytes) -> bool:
        """Remember what `dump` returned; False when it is not readable: the device then begins anew."""
        try:
            version, current, previous = _decode_state(state)
        except msgspec.MsgspecError:
            return False
        if version != STATE_VERSION:
            return False
        self._keep(device, _Frames(current, previous))
        return True

    def _keep(self, device: str, frames: _Frames) -> None:
        self._frames.pop(device, None)  # to the end: the first is the one that was silent longest
        self._frames[device] = frames
        if len(self._frames) > self._devices_max:
            del self._frames[next(iter(self._frames))]
            self.forgotten += 1


def _step(frames: _Frames | None, counter: FrameCounter, observed_us: int | None) -> tuple[FrameVerdict, _Frames]:
    """Return the verdict on a frame, and what is remembered once it is taken."""
    session = counter.session[:SESSION_CHARS_MAX]
    if frames is None:
        return FrameVerdict.NEW, _Frames(_Session(session, counter.counter, 1, observed_us), None)
    current, previous = frames
    if session == current.session:
        verdict, known = _same_session(current, counter.counter, observed_us)
        return verdict, _Frames(known, previous)
    if previous is not None and session == previous.session and not _later(previous.newest_us, current.newest_us, observed_us):
        verdict, known = _same_session(previous, counter.counter, observed_us)
        return verdict, _Frames(current, known)
    return FrameVerdict.REJOINED, _Frames(_Session(session, counter.counter, 1, observed_us), current)


def _later(of_previous_us: int | None, of_current_us: int | None, observed_us: int | None) -> bool:
    """Return whether a frame of the session before was observed after the present one: that session is in force again."""
    if observed_us is None or of_current_us is None or of_previous_us is None:
        return False
    return observed_us > of_current_us + _SAME_US


def _same_session(known: _Session, counter: int, observed_us: int | None) -> tuple[FrameVerdict, _Session]:
    back = known.newest - counter
    if back < 0:
        seen = (known.seen << -back | 1) & _MASK if back > -WINDOW_FRAMES else 1
        return FrameVerdict.NEW, _Session(known.session, counter, seen, observed_us)
    if observed_us is not None and known.newest_us is not None:
        tolerance_us = _RETRANSMISSION_US if back == 0 else _SAME_US
        restarted = observed_us > known.newest_us + tolerance_us
    else:
        restarted = back >= WINDOW_FRAMES
    if restarted:
        return FrameVerdict.RESET, _Session(known.session, counter, 1, observed_us)
    if back >= WINDOW_FRAMES:
        return FrameVerdict.OUT_OF_ORDER, known
    if known.seen >> back & 1:
        return FrameVerdict.REPEATED, known
    return FrameVerdict.OUT_OF_ORDER, known._replace(seen=known.seen | 1 << back)


def _dump(frames: _Frames) -> bytes:
    return _encode_state((STATE_VERSION, frames.current, frames.previous))


_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(tuple[int, _Session, _Session | None]).decode
