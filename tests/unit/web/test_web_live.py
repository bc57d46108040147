from __future__ import annotations

import asyncio

import psycopg

from web.live import QUEUE_MAX, Hub, Message, Queue, offer
from web.state import Brief


def test_offer_full_queue_loses_the_oldest_and_asks_for_a_resync() -> None:
    queue: Queue = asyncio.Queue(QUEUE_MAX)
    for n in range(QUEUE_MAX + 1):
        offer(queue, {"seq": n})
    found = [queue.get_nowait() for _ in range(queue.qsize())]
    assert len(found) == QUEUE_MAX
    assert found[0] == {"seq": 1}
    assert found[-1] == {"seq": QUEUE_MAX, "resync": True}


def test_hub_tells_every_listener_what_changed_and_ends_when_stopped() -> None:
    marks = iter([{"alarms": "1"}, {"alarms": "1"}, {"alarms": "2"}])
    last = {"alarms": "2"}

    async def story() -> list[list[Message | None]]:
        hub = Hub(lambda: next(marks, last), poll_s=0.01, clients_max=2)
        hub.start(asyncio.get_running_loop())
        async with hub.listen() as one, hub.listen() as two:
            assert hub.full
            got = [[await asyncio.wait_for(q.get(), 5) for _ in range(2)] for q in (one, two)]
            await asyncio.to_thread(hub.stop)
            ends = [await asyncio.wait_for(q.get(), 5) for q in (one, two)]
        assert not hub.full
        return [*got, ends]

    one, two, ends = asyncio.run(story())
    assert [m and m["topics"] for m in one] == [["alarms"], ["alarms"]]
    assert one == two
    assert ends == [None, None]


def test_hub_database_away_says_so_and_recovers() -> None:
    calls = 0

    def marks() -> dict[str, str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise psycopg.OperationalError("gone")
        return {"alarms": "1"}

    async def story() -> list[Message | None]:
        hub = Hub(marks, poll_s=0.01, clients_max=2)
        hub.start(asyncio.get_running_loop())
        async with hub.listen() as queue:
            got = [await asyncio.wait_for(queue.get(), 5) for _ in range(2)]
        await asyncio.to_thread(hub.stop)
        return got

    first, second = asyncio.run(story())
    assert first is not None
    assert second is not None
    assert first["store"] == "unavailable"
    assert second["store"] == "ok"


def test_brief_asks_again_only_after_a_while_or_when_told() -> None:
    now_s = [0.0]
    asked: list[int] = []

    def ask() -> int:
        asked.append(1)
        return len(asked)

    brief = Brief(1.0, lambda: now_s[0])
    assert [brief.get(ask), brief.get(ask)] == [1, 1]
    now_s[0] = 1.5
    assert brief.get(ask) == 2
    brief.forget()
    assert brief.get(ask) == 3
