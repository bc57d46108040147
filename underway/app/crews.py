"""The phones of the simulated crews: orders come by MQTT, actions go through the same HTTP API that people use."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid5

import httpx

from simulators.crew import CrewAction, Notice, SimulatedCrew
from simulators.stories import Story
from simulators.town import STREAM_CREW, Town
from simulators.world import World
from underway.app.link import Incoming
from underway.model import from_us

ANSWER_S = 10.0
QUEUE_MAX = 100
ACTIONS = UUID("0b1f3c52-3f5b-5a55-9a3e-2f4be5f5f9a1")
ON_SITE = "IN_PROGRESS"

log = logging.getLogger("underway.demo.crews")


def crew_topics(site_id: str) -> str:
    """Return the topic filter on which the crews of a site get their orders."""
    return f"uw/{site_id}/crew/+/orders"


@dataclass(slots=True)
class Phone:
    """One crew's phone: the crew, its pass (from the link in the order card), and what it has not sent yet."""

    crew: SimulatedCrew
    token: str = ""
    versions: dict[int, int] = field(default_factory=dict)
    visits: dict[int, int] = field(default_factory=dict)
    unsent: deque[CrewAction] = field(default_factory=lambda: deque(maxlen=QUEUE_MAX))


class CrewPhones:
    """All phones of a town.

    Parameters
    ----------
    base_url : str
        Address of the web server.
    town : Town
    story : Story
        Says how the crews conduct themselves.
    """

    def __init__(self, base_url: str, town: Town, story: Story) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=ANSWER_S)
        self._phones = {
            crew.crew_id: Phone(
                SimulatedCrew(
                    crew.crew_id,
                    (crew.longitude_deg, crew.latitude_deg),
                    town.rng(STREAM_CREW, number),
                    crew.speed_kmph,
                    story.conduct,
                )
            )
            for number, crew in enumerate(town.crews)
        }
        self.refused: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    def hear(self, inbox: asyncio.Queue[Incoming], now_us: int) -> None:
        """Read what has come for the crews since the last time."""
        while not inbox.empty():
            message = inbox.get_nowait()
            phone = self._phones.get(message.topic.split("/")[3])
            if phone is None or not message.payload:
                continue
            card = json.loads(message.payload)
            order_id = int(card["order_id"])
            if card["kind"] == "recall":
                phone.crew.forget(order_id)
                continue
            phone.token = str(card["link"]).rsplit("/", 1)[-1]
            phone.versions[order_id] = int(card["version"])
            phone.visits[order_id] = int(card["rework"])
            candidates = tuple(str(row["asset_id"]) for row in card["candidates"])
            notice = Notice(
                order_id,
                str(card["required_skill"]),
                str(card["asset_id"]),
                candidates,
                on_site=card["state"] == ON_SITE,
                rework=int(card["rework"]),
            )
            phone.crew.tell(notice, now_us)

    async def act(self, world: World, now_us: int) -> None:
        """Let every crew do what is due, and send what it says."""
        for phone in self._phones.values():
            phone.unsent.extend(phone.crew.poll(now_us, world))
            while phone.unsent and await self._send(phone, phone.unsent[0]):
                phone.unsent.popleft()

    async def _send(self, phone: Phone, action: CrewAction) -> bool:
        """Send one action; False when the network or the server is away and it must be tried again."""
        body: dict[str, Any] = {
            "event": action.event,
            "action_id": str(uuid5(ACTIONS, f"{action.order_id}|{phone.visits.get(action.order_id, 0)}|{action.event}|{action.at_us}")),
            "device_at": from_us(action.at_us).isoformat(),
            "base_version": phone.versions.get(action.order_id),
            "body": dict(action.body),
        }
        try:
            answer = await self._http.post(
                f"/api/orders/{action.order_id}/actions", json=body, headers={"Authorization": f"Bearer {phone.token}"}
            )
        except httpx.TransportError as error:
            log.info("the web server does not answer %s (%s): trying again", phone.crew.crew_id, error)
            return False
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            return False
        if answer.is_success:
            phone.versions[action.order_id] = int(answer.json()["version"])
        else:
            self.refused.append(f"{phone.crew.crew_id} '{action.event}' on {action.order_id}: {answer.status_code} {answer.text[:300]}")
            log.warning("refused: %s", self.refused[-1])
            phone.crew.forget(action.order_id)
        return True
