"""The ingest service under cProfile, in the main thread: ``python -m underway.app.bench.profiled FILE``, told by the environment."""

from __future__ import annotations

import cProfile
import logging
import signal
import sys
import threading

from underway.app import services
from underway.app.clock import SystemClock
from underway.app.settings import load_settings


def main(path: str) -> None:
    """Run until SIGTERM, then leave the profile at `path`: for ``python -m pstats``."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    settings = load_settings(services.NEEDS["ingest"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        services._SERVICES["ingest"](settings, SystemClock(), stop)
    finally:
        profiler.disable()
        profiler.dump_stats(path)


if __name__ == "__main__":
    main(sys.argv[1])
