"""Break everything around a running ingest for as long as one likes, and count both sides at the end.

``python bench/soak_ingest.py --minutes 20 --seed 7`` runs the service, a broker, a primary with a synchronous standby, and devices that publish
without a pause; every few seconds something breaks, several things at once too, and heals later. The seed decides what breaks when; what that
does depends on the machine, so that a run is alike and not the same. The last line is the verdict as JSON; the exit code is 0 when every published
reading is stored exactly once. Full disks need root (a small file system for each server); without it they are left out, and it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "integration"), str(ROOT)]

from faults.ingest import wait_until  # noqa: E402  the helpers of the fault tests stand beside them
from faults.link import Link  # noqa: E402
from faults.postgres import Postgres, wipe  # noqa: E402
from faults.scenarios import fill, follow, make_synchronous  # noqa: E402
from faults.world import World, make_template, mount_tmpfs, unmount  # noqa: E402

PAUSE_S = (1.0, 9.0)
"""Between the begins of two faults."""
STATUS_S = 20.0
SUPERVISE_S = 1.5
DISK_KB = 512 * 1024
SERVER = {
    "wal_level": "replica",
    "max_wal_senders": "4",
    "hot_standby": "on",
    "wal_keep_size": "96MB",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "wal_retrieve_retry_interval": "500ms",
}


class Soak:
    """The world, the faults that are on, and what is due when.

    Everything happens in the main thread: servers end with the thread that started them.
    """

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.busy: set[str] = set()
        self.done: Counter[str] = Counter()
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.supervised = True
        self.down: set[int] = set()
        self.rss_mb_max = 0.0
        self.has_disks = True
        self.nodes = [world.database, Postgres(world.folder / "second", settings=SERVER)]
        self.primary = 0
        self.links: list[Link] = []
        self.broker_link: Link
        self.faults: dict[str, tuple[str, Callable[[], None]]] = {
            "kill ingest": ("", self.kill_ingest),
            "database down": ("database", self.database_down),
            "failover": ("database", self.failover),
            "standby down": ("database", self.standby_down),
            "disk full": ("database", self.disk_full),
            "broker restarts": ("broker", self.broker_restarts),
            "broker killed after it wrote": ("broker", self.broker_killed),
            "cut from database": ("database link", self.cut_from_database),
            "freeze database": ("database link", self.freeze_database),
            "reset database": ("database link", self.reset_database),
            "cut from broker": ("broker link", self.cut_from_broker),
            "freeze broker": ("broker link", self.freeze_broker),
            "reset broker": ("broker link", self.reset_broker),
        }

    # setting up ----------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        world = self.world
        for node in self.nodes:
            node.settings = dict(SERVER)
            self._give_disk(node)
        first, second = self.nodes
        first.copy_of(world.template)
        first.start()
        follow(world, first, second)
        for node in self.nodes:
            link = Link(node.port)
            world.on_exit(link.close)
            self.links.append(link)
        world.on_exit(lambda: [node.stop("immediate") for node in self.nodes])
        ports = ",".join(str(link.port) for link in self.links)
        world.database_url = f"postgresql://postgres@/underway?host=127.0.0.1,127.0.0.1&port={ports}&target_session_attrs=read-write"
        world.broker.start()
        world.on_exit(world.broker.stop)
        self.broker_link = world.link_to_broker()
        world.start_ingest()
        world.start_devices()
        world.wait_until_stored(100)

    def _give_disk(self, node: Postgres) -> None:
        node.home.mkdir(parents=True, exist_ok=True)
        node._prepare_home()
        try:
            mount_tmpfs(node.home, DISK_KB, node)
        except OSError as error:
            if self.has_disks:
                self.world.say(f"without full disks: {error}")
            self.has_disks = False
            self.faults.pop("disk full", None)
        else:
            self.world.on_exit(lambda: unmount(node.home))

    # the loop ------------------------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        self.later(self.rng.uniform(*PAUSE_S), lambda: self.next_fault(end_s))
        self.later(STATUS_S, self.status)
        self.later(SUPERVISE_S, self.supervise)
        while time.monotonic() < end_s or self.busy or not all(_answers(node) for node in self.nodes):
            at_s, _, action = self.due[0]
            if at_s > time.monotonic():
                time.sleep(min(0.05, at_s - time.monotonic()))
                continue
            heapq.heappop(self.due)
            action()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.due, (time.monotonic() + seconds, next(self.numbers), action))

    def next_fault(self, end_s: float) -> None:
        possible = [name for name, (part, _) in self.faults.items() if part not in self.busy]
        if time.monotonic() >= end_s:
            return
        if possible:
            name = self.rng.choice(possible)
            part, begin = self.faults[name]
            if part:
                self.busy.add(part)
            self.done[name] += 1
            self.world.say(f"{name}")
            begin()
        self.later(self.rng.uniform(*PAUSE_S), lambda: self.next_fault(end_s))

    def heal(self, part: str, seconds: float, action: Callable[[], object], what: str) -> None:
        """Undo a fault of `part` after some time."""

        def undo() -> None:
            action()
            self.busy.discard(part)
            self.world.say(f"    {what}, after {seconds:.1f} s")

        self.later(seconds, undo)

    def supervise(self) -> None:
        """Start servers that ended by themselves, as systemd would."""
        for number, node in enumerate(self.nodes):
            if number not in self.down and not node.is_alive():
                node.start_without_waiting()
        self.later(SUPERVISE_S, self.supervise)

    def status(self) -> None:
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{self.world.ingest.pid}/statm").read_text().split()[1])
            self.rss_mb_max = max(self.rss_mb_max, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        said, stored = len(self.world.devices.said), self.world.stored()
        self.world.say(
            f"published {said}, stored {stored if stored >= 0 else '?'}, now broken: {', '.join(sorted(self.busy)) or 'nothing'}"
        )
        self.later(STATUS_S, self.status)

    # faults --------------------------------------------------------------------------------------------------------------------------

    def kill_ingest(self) -> None:
        self.world.ingest.kill()

    def database_down(self) -> None:
        node, number, seconds = self.nodes[self.primary], self.primary, self.rng.uniform(0.0, 25.0)
        self.down.add(number)
        how = self.rng.choice(["fast", "immediate", "kill"])
        if how == "kill":
            node.kill()
        else:
            node.stop(how)
        self.heal("database", seconds, lambda: self._up(number), f"database up again ({how})")

    def standby_down(self) -> None:
        number, seconds = 1 - self.primary, self.rng.uniform(0.0, 20.0)
        self.down.add(number)
        self.nodes[number].kill()
        self.heal("database", seconds, lambda: self._up(number), "standby up again")

    def failover(self) -> None:
        old, new = self.nodes[self.primary], self.nodes[1 - self.primary]
        wait_until(lambda: _answers(new), 60, "for the standby before the primary is killed")
        self.down.add(self.primary)
        old.kill()
        self.heal("database", self.rng.uniform(0.5, 6.0), self._promote, "the standby is primary, and has a standby again")

    def _promote(self) -> None:
        old, new = self.nodes[self.primary], self.nodes[1 - self.primary]
        new.promote()
        # commits wait for nobody until the next standby is there: this is where an installation has one copy
        self.primary = 1 - self.primary
        self.world.database = new
        wipe(old.data)
        old.standby_of(new, "standby")
        old.start()
        make_synchronous(new)
        self.down.clear()

    def disk_full(self) -> None:
        node, seconds = self.nodes[self.primary], self.rng.uniform(2.0, 15.0)
        ballast = fill(node.home)
        # the room that is left inside the files of the log is used up too, sometimes: then the server goes down
        if self.rng.random() < 0.5:
            with contextlib.suppress(Exception):
                for _ in range(6):
                    node.execute("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 100000)), pg_switch_wal()", "postgres")
        self.heal("database", seconds, ballast.unlink, "room on the disk")

    def _up(self, number: int) -> None:
        self.down.discard(number)
        if not self.nodes[number].is_alive():
            self.nodes[number].start_without_waiting()

    def broker_restarts(self) -> None:
        self.world.broker.stop()
        self.heal("broker", self.rng.uniform(0.0, 8.0), self.world.broker.start, "broker up again")

    def broker_killed(self) -> None:
        """Kill the broker when it has written all it acknowledged; what it acknowledges after that it promises to nobody."""
        devices, broker = self.world.devices, self.world.broker
        devices.pause()
        wait_until(lambda: not devices.unconfirmed, 60, "for the broker to acknowledge")
        broker.save()
        broker.kill()
        devices.resume()
        self.heal("broker", self.rng.uniform(0.0, 4.0), broker.start, "broker up again")

    def cut_from_database(self) -> None:
        for link in self.links:
            link.cut()
        self.heal("database link", self.rng.uniform(3.0, 40.0), self._heal_database_link, "database link healed")

    def freeze_database(self) -> None:
        for link in self.links:
            link.freeze()
        self.heal("database link", self.rng.uniform(1.0, 45.0), self._heal_database_link, "database link thawed")

    def reset_database(self) -> None:
        for link in self.links:
            link.reset()
        self.busy.discard("database link")

    def _heal_database_link(self) -> None:
        for link in self.links:
            link.heal()

    def cut_from_broker(self) -> None:
        self.broker_link.cut()
        self.heal("broker link", self.rng.uniform(3.0, 40.0), self.broker_link.heal, "broker link healed")

    def freeze_broker(self) -> None:
        self.broker_link.freeze()
        self.heal("broker link", self.rng.uniform(1.0, 40.0), self.broker_link.heal, "broker link thawed")

    def reset_broker(self) -> None:
        self.broker_link.reset()
        self.busy.discard("broker link")


def _answers(node: Postgres) -> bool:
    try:
        node.execute("SELECT 1", "postgres")
    except Exception:  # down, starting, cut off: whatever it is, it does not answer
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long things break (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="decides what breaks when (default 1)")
    parser.add_argument("--per-s", type=float, default=100.0, help="readings a second (default 100)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="underway-soak-"))
    folder.chmod(0o755)  # as root the servers run as another user
    try:
        with World(folder / "world", make_template(folder), options.seed, per_s=options.per_s) as world:
            world.say(f"{options.minutes:g} minutes, seed {options.seed}, {options.per_s:g} readings a second")
            soak = Soak(world)
            soak.start()
            verdict: dict[str, Any] = {}
            try:
                soak.run(options.minutes * 60)
                world.say("everything is healed: counting")
                result = world.finish()
                verdict = world.verdict(result)
            finally:
                if not verdict:
                    print("the log of ingest ends with:", *world.ingest.log().splitlines()[-40:], sep="\n", flush=True)
            verdict |= {"faults": dict(soak.done), "faults_total": sum(soak.done.values()), "rss_mb_max": round(soak.rss_mb_max)}
            clean = result.is_exact and not verdict["ended_by_itself"]
            world.say("EXACT: every published reading is stored once" if clean else "NOT EXACT")
            print(json.dumps(verdict), flush=True)
    finally:
        wipe(folder)
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
