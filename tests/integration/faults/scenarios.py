"""The faults, one function each: break it, let it heal by itself, count.

``python -m faults.scenarios NAME --folder F --template T --seed N`` runs one and prints its verdict as JSON in the last line; a scenario that goes
wrong ends with a traceback. Each has its own process: servers end with the thread that started them, and a hundred scenarios would not share one
interpreter's time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import count
from .ingest import wait_until
from .postgres import Postgres
from .world import World, mount_tmpfs, unmount

OUTAGE_S = 60.0
CUT_S = 35.0
CUT_SEEN_S_MAX = 90.0
DISK_FULL = "No space left on device"
MOUNT_REFUSED = 77
"""Exit code: a file system of one's own cannot be mounted here."""

Scenario = Callable[[World], dict[str, Any]]


# SIGKILL of ingest ------------------------------------------------------------------------------------------------------------------------


def kills(world: World) -> dict[str, Any]:
    """SIGKILL at random moments: in the start, in the replay, between COPY and commit, between commit and acknowledgement."""
    world.start()
    moments = ["early", "early", "soon", "soon", "at work", "at work"]
    world.rng.shuffle(moments)
    hit = {"starting": 0, "running": 0}
    for moment in moments:
        if moment == "at work":
            world.wait_until_running()
        world.sleep(world.rng.uniform(*{"early": (0.05, 0.6), "soon": (0.6, 4.0), "at work": (0.0, 1.5)}[moment]))
        how = "running" if world.is_running() else "starting"
        while not world.ingest.kill():
            world.sleep(0.05)
        hit[how] += 1
        world.say(f"killed ingest, {moment}")
    world.facts["kills"] = hit
    world.wait_until_running()
    return world.verdict(world.finish())


# the database -----------------------------------------------------------------------------------------------------------------------------


def database_away(world: World) -> dict[str, Any]:
    """Stop the database in the middle of work for a minute, as a crash does, and start it again."""
    world.start()
    world.database.stop("immediate")
    world.say(f"stopped the database for {OUTAGE_S:g} s")
    world.sleep(OUTAGE_S)
    assert world.ingest.is_alive, "ingest must live through the outage"
    world.database.start()
    world.say("started the database")
    world.facts["resumed_s"] = round(world.wait_until_stored(50), 1)
    return world.verdict(world.finish())


def database_restarts(world: World) -> dict[str, Any]:
    """Restart the database again and again while it is busy: fast, immediate, killed."""
    world.start()
    for how in ("fast", "immediate", "kill", "fast", "kill"):
        if how == "kill":
            world.database.kill()
        else:
            world.database.stop(how)
        world.say(f"database down: {how}")
        world.sleep(world.rng.uniform(0.0, 2.0))
        world.database.start()
        world.wait_until_stored(20)
        world.sleep(world.rng.uniform(0.0, 1.5))
    return world.verdict(world.finish())


def failover(world: World) -> dict[str, Any]:
    """Kill the primary, promote its synchronous standby; ingest has the addresses of both and wants the one that can write."""
    primary = world.database
    primary.settings = {"wal_level": "replica", "max_wal_senders": "4", "hot_standby": "on"}
    standby = Postgres(world.folder / "standby", settings=primary.settings)
    world.database_url = (
        f"postgresql://postgres@/underway?host=127.0.0.1,127.0.0.1&port={primary.port},{standby.port}&target_session_attrs=read-write"
    )
    world.start_servers()
    follow(world, primary, standby)
    world.start_ingest()
    world.start_devices()
    world.wait_until_stored(200)
    world.facts["on_old_primary"] = world.stored()
    primary.kill()
    world.say("killed the primary with all its processes")
    world.sleep(5)
    standby.promote()
    world.say("promoted the standby")
    world.database = standby
    world.facts["resumed_s"] = round(world.wait_until_stored(50), 1)
    return world.verdict(world.finish())


def follow(world: World, primary: Postgres, standby: Postgres) -> None:
    """Make `standby` follow, and let no commit of `primary` return before it has it."""
    standby.standby_of(primary, "standby")
    standby.start()
    world.on_exit(lambda: standby.stop("immediate"))
    make_synchronous(primary)


def make_synchronous(primary: Postgres) -> None:
    """Let no commit of `primary` return before its standby has it; wait until the standby is there."""
    # only now, and in the file of the primary alone: a standby that inherits it would wait for a standby of its own when it is promoted
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "postgres")
    primary.execute("SELECT pg_reload_conf()", "postgres")
    is_synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
    wait_until(lambda: primary.execute(is_synchronous, "postgres") == [(1,)], 60, "for the standby to be synchronous")


# the broker -------------------------------------------------------------------------------------------------------------------------------


def broker_restarts(world: World) -> dict[str, Any]:
    """Restart the broker with SIGTERM, with ingest there and with ingest away, and kill it while ingest keeps up."""
    world.start()
    for _ in range(2):
        world.broker.stop()
        world.say("stopped the broker")
        world.sleep(world.rng.uniform(0.5, 3.0))
        world.broker.start()
        world.wait_until_stored(100)
    world.ingest.kill_for_good()
    world.say("killed ingest for good")
    world.sleep(3)
    world.broker.stop()
    world.say("stopped the broker, which holds what ingest has not taken")
    world.sleep(1)
    world.broker.start()
    world.sleep(1)
    world.ingest.start()
    world.wait_until_running()
    world.wait_until_stored(100)
    wait_until(lambda: world.status().get("unacked", 1) < 100, 90, "for ingest to keep up")
    world.broker.kill()
    world.say("killed the broker while ingest keeps up")
    world.sleep(1)
    world.broker.start()
    world.wait_until_stored(100)
    return world.verdict(world.finish())


def broker_killed_alone(world: World) -> dict[str, Any]:
    """Kill the broker while ingest is away: what it wrote last survives, what came after that does not."""
    world.start()
    world.ingest.kill_for_good()
    world.sleep(3)
    world.devices.pause()
    wait_until(lambda: not world.devices.unconfirmed, 60, "for the broker to acknowledge")
    world.broker.save()
    saved = set(world.devices.said)
    world.say(f"the broker wrote its sessions after {len(saved)} messages")
    world.devices.resume()
    world.sleep(3)
    world.devices.pause()
    wait_until(lambda: not world.devices.unconfirmed, 60, "for the broker to acknowledge")
    unsaved = set(world.devices.said) - saved
    world.broker.kill()
    world.say(f"killed the broker, {len(unsaved)} acknowledged messages after that")
    world.broker.start()
    wait_until(lambda: world.devices.client.is_connected(), 60, "for the devices to come back")
    world.ingest.start()
    world.devices.resume()
    world.wait_until_running()
    world.wait_until_stored(100)
    world.devices.finish()
    wait_until(world.is_idle, 90, "for the acknowledgements")
    lost = set(count.missing(world.database.url(), world.devices.said))
    world.facts |= {
        "saved": len(saved),
        "unsaved": len(unsaved),
        "lost_of_saved": len(lost & saved),
        "lost_of_unsaved": len(lost & unsaved),
    }
    world.facts["lost_of_later"] = len(lost - saved - unsaved)
    world.ingest.stop()
    return world.verdict(count.count(world.database.url(), world.devices.said))


def qos_0_ingest_away(world: World) -> dict[str, Any]:
    """Publish at QoS 0, as Sparkplug does, and kill ingest: what comes meanwhile is kept only by a broker that was told to."""
    world.start_servers()
    world.start_ingest()
    world.start_devices(qos=0)
    world.wait_until_stored(200)
    world.devices.pause()
    world.sleep(0.5)
    wait_until(lambda: world.stored() >= len(world.devices.said), 60, "for what was said")
    before = set(world.devices.said)
    world.facts["broker_keeps_qos_0"] = "queue_qos0_messages true" in (world.broker.folder / "mosquitto.conf").read_text()
    world.ingest.kill_for_good()
    world.devices.resume()
    world.sleep(3)
    world.devices.pause()
    world.sleep(0.5)
    meanwhile = set(world.devices.said) - before
    world.say(f"{len(meanwhile)} messages at QoS 0 while ingest was away")
    world.ingest.start()
    world.wait_until_running()
    world.devices.resume()
    world.wait_until_stored(100)
    world.devices.finish()
    world.sleep(2)
    lost = set(count.missing(world.database.url(), world.devices.said))
    world.facts |= {"meanwhile": len(meanwhile), "lost_meanwhile": len(lost & meanwhile), "lost_otherwise": len(lost - meanwhile)}
    world.ingest.stop()
    return world.verdict(count.count(world.database.url(), world.devices.said))


# the network ------------------------------------------------------------------------------------------------------------------------------


def cut_from_broker(world: World) -> dict[str, Any]:
    """Let every packet between ingest and the broker vanish for a while: no FIN, no RST."""
    world.start_servers()
    link = world.link_to_broker()
    world.start_ingest()
    world.start_devices()
    world.wait_until_stored(100)
    link.cut()
    world.say(f"cut the link to the broker for {CUT_S:g} s")
    since = len(world.ingest.log())
    world.facts["noticed_s"] = round(
        wait_until(lambda: not world.status().get("subscribed", True), CUT_SEEN_S_MAX, "for ingest to see it"), 1
    )
    world.say("ingest says that it is not subscribed")
    world.facts["said"] = world.ingest.log()[since:].strip().splitlines()[:1]
    world.sleep(max(0.0, CUT_S - world.facts["noticed_s"]))
    link.heal()
    world.say("healed the link")
    world.facts["resumed_s"] = round(world.wait_until_stored(50), 1)
    return world.verdict(world.finish())


def cut_from_database(world: World) -> dict[str, Any]:
    """Let every packet between ingest and the database vanish for a while."""
    return _silent_database(world, "cut")


def frozen_database(world: World) -> dict[str, Any]:
    """Freeze the link to the database: it acknowledges on the level of TCP, and nothing comes through."""
    return _silent_database(world, "freeze")


def _silent_database(world: World, how: str) -> dict[str, Any]:
    world.start_servers()
    link = world.link_to_database()
    world.start_ingest()
    world.start_devices()
    world.wait_until_stored(100)
    since = len(world.ingest.log())
    (link.cut if how == "cut" else link.freeze)()
    world.say(f"link to the database: {how}, for {CUT_S:g} s at least")
    noticed_s = world.wait_until_logged("trying again", CUT_SEEN_S_MAX, since)
    world.facts["noticed_s"] = round(noticed_s, 1)
    world.facts["said"] = [line for line in world.ingest.log()[since:].splitlines() if "trying again" in line][:1]
    world.say(f"ingest says so: {world.facts['said']}")
    world.sleep(max(2.0, CUT_S - noticed_s))
    link.heal()
    world.say("healed the link")
    world.facts["resumed_s"] = round(world.wait_until_stored(50), 1)
    return world.verdict(world.finish())


# the disk ---------------------------------------------------------------------------------------------------------------------------------


def data_disk_full(world: World) -> dict[str, Any]:
    """Fill the disk that holds the readings: statements fail, the server lives; kill ingest in the middle of it, too."""
    world.start_servers()
    disk = world.folder / "small-disk"
    mount_tmpfs(disk, 24 * 1024, world.database)
    world.on_exit(lambda: unmount(disk))
    world.on_exit(lambda: world.database.stop("immediate"))
    world.database.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
    for kind, name in world.database.execute(
        "SELECT CASE relkind WHEN 'i' THEN 'INDEX' ELSE 'TABLE' END, relname FROM pg_class"
        " WHERE oid = 'reading'::regclass OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'reading'::regclass)"
    ):
        world.database.execute(f"ALTER {kind} {name} SET TABLESPACE small")
    world.start_ingest()
    world.start_devices()
    world.wait_until_stored(100)
    since = len(world.ingest.log())
    ballast = fill(disk)
    world.say(f"filled the disk of the readings with {ballast.stat().st_size // 1024} kB")
    world.facts["noticed_s"] = round(world.wait_until_logged(DISK_FULL, 90, since), 1)
    world.facts["said"] = [line for line in world.ingest.log()[since:].splitlines() if DISK_FULL in line][:1]
    world.facts["metrics_s"] = round(wait_until(lambda: says_store_away(world), 90, "for the metrics to say it"), 1)
    full_at = world.stored()
    world.sleep(4)
    assert world.ingest.is_alive, "ingest must live on while the disk is full"
    world.ingest.kill()
    world.say("killed ingest while the disk is full")
    again = len(world.ingest.log())
    world.wait_until_logged(DISK_FULL, 150, again)
    world.facts["stored_while_full"] = world.stored() - full_at
    assert world.ingest.is_alive
    ballast.unlink()
    world.say("freed the disk")
    world.facts["resumed_s"] = round(world.wait_until_stored(50), 1)
    return world.verdict(world.finish())


def wal_disk_full(world: World) -> dict[str, Any]:
    """Fill the disk that holds the write-ahead log: the server goes down and cannot come up again before there is room."""
    world.database.copy_of(world.template)
    disk = world.folder / "wal-disk"
    mount_tmpfs(disk, 96 * 1024, world.database)
    world.on_exit(lambda: unmount(disk))
    _move_wal(world.database, disk)
    world.database.settings = {"max_wal_size": "32MB", "min_wal_size": "32MB"}
    world.database.start()
    world.on_exit(lambda: world.database.stop("immediate"))
    world.broker.start()
    world.on_exit(world.broker.stop)
    world.start_ingest()
    world.start_devices()
    world.wait_until_stored(100)
    ballast = fill(disk)
    world.say(f"filled the disk of the write-ahead log with {ballast.stat().st_size // 1024} kB")
    for _ in range(12):
        if not _switch_wal(world.database):
            break
        world.sleep(0.3)
    log_of_server = world.database.log
    wait_until(lambda: "PANIC" in log_of_server() and DISK_FULL in log_of_server(), 60, "for the server to go down for want of room")
    world.say("the server went down: it cannot write its log")
    came_up = _tries_to_start(world.database)
    world.facts["server_up_while_full"] = came_up
    world.sleep(5)
    assert world.ingest.is_alive, "ingest must live on while the server is down"
    world.facts["status_while_full"] = world.status().get("state")
    ballast.unlink()
    world.say("freed the disk")
    if not world.database.is_alive():
        world.database.start()
    world.facts["resumed_s"] = round(world.wait_until_stored(50), 1)
    return world.verdict(world.finish())


def says_store_away(world: World) -> bool:
    return 'underway_ingest_state{state="store away"} 1' in world.ingest.metrics()


def fill(disk: Path) -> Path:
    """Fill a file system to its last block with one file."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            while True:
                try:
                    if file.write(b"\0" * size) < size:
                        break
                except OSError:
                    break
    return ballast


def _move_wal(server: Postgres, disk: Path) -> None:
    """Move the write-ahead log of a stopped server to another file system."""
    here = server.data / "pg_wal"
    for path in here.iterdir():
        os.system(f"cp -a '{path}' '{disk}/'")
    os.system(f"rm -rf '{here}'")
    here.symlink_to(disk)


def _switch_wal(server: Postgres) -> bool:
    """Use up a segment of the log; False when the server cannot any more."""
    try:
        server.execute("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 100000)), pg_switch_wal()", "postgres")
    except Exception:  # the disk is full, or the server went down over it: either is what is waited for
        return False
    return True


def _tries_to_start(server: Postgres) -> bool:
    """Do what a supervisor does; say whether the server came up."""
    if server.is_alive():
        try:
            server.wait_until_ready(5)
        except RuntimeError:
            return False
        return True
    try:
        server.start()
    except RuntimeError:
        return False
    return True


SCENARIOS: dict[str, tuple[Scenario, dict[str, Any]]] = {
    "kills-mqtt-5": (kills, {}),
    "kills-mqtt-3.1.1": (kills, {"broker": "amqtt", "per_s": 40.0}),
    "database-away": (database_away, {}),
    "database-restarts": (database_restarts, {}),
    "failover": (failover, {}),
    "broker-restarts": (broker_restarts, {}),
    "broker-killed-alone": (broker_killed_alone, {}),
    "qos-0-ingest-away": (qos_0_ingest_away, {}),
    "cut-from-broker": (cut_from_broker, {}),
    "cut-from-database": (cut_from_database, {}),
    "frozen-database": (frozen_database, {}),
    "data-disk-full": (data_disk_full, {}),
    "wal-disk-full": (wal_disk_full, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SCENARIOS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    scenario, arguments = SCENARIOS[options.name]
    with World(options.folder, options.template, options.seed, **arguments) as world:
        world.say(f"{options.name}, seed {options.seed}")
        try:
            verdict = scenario(world)
        except OSError as error:
            if "cannot mount" not in str(error):
                raise
            print(error, file=sys.stderr)
            sys.exit(MOUNT_REFUSED)
        except BaseException:
            if hasattr(world, "ingest"):
                print("the log of ingest ends with:", *world.ingest.log().splitlines()[-25:], sep="\n", flush=True)
            raise
    print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
