"""Ports that stay ours while a server on them is down."""

from __future__ import annotations

import itertools
import os
import socket

# below the range that the kernel gives to clients: nobody takes one while its server is down
_FIRST, _LAST = 20_000, 32_000
_candidates = itertools.count(_FIRST + os.getpid() * 37 % (_LAST - _FIRST))


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody listens on."""
    for candidate in itertools.islice(_candidates, _LAST - _FIRST):
        port = _FIRST + (candidate - _FIRST) % (_LAST - _FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {_FIRST} and {_LAST} on 127.0.0.1")
