"""The socket under an MQTT connection: it never blocks, any thread may send, one thread receives and waits."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading

RECV_BYTES = 64 * 2**10
CONNECT_S_MAX = 5.0
UNACKED_MS_MAX = 25_000
"""The kernel gives a connection up when what was sent is not confirmed for so long (``TCP_USER_TIMEOUT``)."""
_TLS_WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wake:
    """Ends the wait of the network thread, from another thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def fileno(self) -> int:
        """Return what becomes readable."""
        return self._reader.fileno()

    def set(self) -> None:
        """End the wait, now or the next one."""
        with contextlib.suppress(OSError):  # full: it is set already; closed: nobody waits
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Forget what was set."""
        with contextlib.suppress(OSError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def wait(self, timeout_s: float) -> None:
        """Wait for nothing but this."""
        if self._poll.poll(timeout_s * 1000):
            self.clear()

    def close(self) -> None:
        """Give the sockets back."""
        self._reader.close()
        self._writer.close()


class Wire:
    """One connected socket.

    Parameters
    ----------
    sock : socket
        Connected, TLS done; becomes non-blocking.
    wake : Wake

    Notes
    -----
    What the peer does not take at once waits in a buffer that the network thread flushes, so that sending never blocks, also when the peer reads
    nothing as long as we read nothing. The buffer is bounded by those who send: they look at `out_bytes`.
    A lock is held while sending, and with TLS while receiving too, for one TLS connection is not for two threads at once.
    """

    def __init__(self, sock: socket.socket, wake: Wake) -> None:
        self._sock = sock
        self._wake = wake
        self._lock = threading.Lock()
        self._out = bytearray()
        self._fault: OSError | None = None
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self.sends = 0
        self.bytes_in = 0
        sock.setblocking(False)
        self._poll = select.poll()
        self._poll.register(wake.fileno(), select.POLLIN)
        self._mask = 0
        self._poll.register(sock, 0)

    @property
    def out_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._out)

    def send(self, data: bytes) -> None:
        """Send, or keep for `flush`. A fault of the socket is told to the receiving thread, not here."""
        with self._lock:
            kept = len(self._out)
            self._out += data
            if not kept:
                self._flush()
            if not self._out and self._fault is None:
                return
        self._wake.set()

    def flush(self) -> None:
        """Send what waits, as far as the peer takes it.

        Raises
        ------
        OSError
            When a send, here or in another thread, met a fault.
        """
        with self._lock:
            if self._out:
                self._flush()
            if self._fault is not None:
                raise self._fault

    def _flush(self) -> None:
        if self._fault is not None:
            return
        try:
            while self._out:
                self.sends += 1
                del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, InterruptedError, *_TLS_WAITS):
            pass
        except OSError as error:
            self._fault = error

    def receive(self) -> bytes | None:
        """Return what came, ``b""`` when the peer closed the connection, None when nothing came.

        Raises
        ------
        OSError
            When the connection is broken.
        """
        if self._is_tls:
            data = self._receive_records()
        else:
            try:
                data = self._sock.recv(RECV_BYTES)
            except (BlockingIOError, InterruptedError):
                return None
        if data:
            self.bytes_in += len(data)
        return data

    def _receive_records(self) -> bytes | None:
        """Return what came over TLS, which hands out one record at a time, however small."""
        records: list[bytes] = []
        size = 0
        with self._lock:
            while size < RECV_BYTES:
                try:
                    record = self._sock.recv(RECV_BYTES)
                except (BlockingIOError, InterruptedError, *_TLS_WAITS):
                    return b"".join(records) if records else None
                except OSError:
                    if records:  # what came is good; the next call tells
                        break
                    raise
                if not record:
                    break
                records.append(record)
                size += len(record)
        return b"".join(records)

    def wait(self, timeout_s: float, reading: bool) -> None:
        """Wait at most `timeout_s` until something came (when `reading`), can be sent (when something waits), or `Wake` is set.

        Raises
        ------
        OSError
            When nothing is read and the connection is broken: reading would tell.
        """
        mask = (select.POLLIN if reading else 0) | (select.POLLOUT if self._out else 0)
        if mask != self._mask:
            self._poll.modify(self._sock, mask)
            self._mask = mask
        for fd, event in self._poll.poll(max(0.0, timeout_s) * 1000):
            if fd == self._wake.fileno():
                self._wake.clear()
            elif not reading and event & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                raise ConnectionResetError("the connection was reset")

    def end_sending(self) -> None:
        """Tell the peer that nothing more comes; it may still send."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        with self._lock:
            self._fault = self._fault or ConnectionAbortedError("the connection is closed")
            self._sock.close()


def open_wire(host: str, port: int, tls: ssl.SSLContext | None, wake: Wake) -> Wire:
    """Connect, with TLS when a context is given.

    Raises
    ------
    OSError
        When nobody answers within 5 s for each address of `host`, or TLS fails.
    """
    sock = socket.create_connection((host, port), CONNECT_S_MAX)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_MS_MAX)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=host)
        return Wire(sock, wake)
    except BaseException:
        sock.close()
        raise
