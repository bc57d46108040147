"""The JSON API: what pages read, and the actions of operators and crews. Every endpoint names the permission it needs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from psycopg import Connection
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from underway.model import FindCode, Role, WaitingReason
from underway.store import losses, views
from underway.store.clock import read_clock
from web import actions, auth
from web.auth import Permission, Principal
from web.errors import ApiError, ErrorAnswer
from web.state import State

PING_S = 15
HISTORY_HOURS = 24.0
DAY = timedelta(days=1)

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "nobody known is asking"},
    403: {"model": ErrorAnswer, "description": "someone known is asking, and may not"},
    404: {"model": ErrorAnswer, "description": "there is no such thing"},
    503: {"model": ErrorAnswer, "description": "the database cannot be reached now"},
}
ACTION_REFUSALS: dict[int | str, dict[str, Any]] = {
    202: {"description": "in conflict with what happened meanwhile: a review item was made, nothing was overwritten"},
    409: {"model": ErrorAnswer, "description": "the state does not allow it; `allowed` says what it does"},
    422: {"model": ErrorAnswer, "description": "a guard is not met (`unmet` lists every one) or the request is malformed"},
}

T = TypeVar("T")
router = APIRouter(responses=REFUSALS)


def state_of(request: Request) -> State:
    """Return what requests share."""
    state: State = request.app.state.web
    return state


def identify(request: Request) -> Principal | None:
    """Return who is asking, None when nobody known is."""
    state = state_of(request)
    with state.pool.connection() as conn:
        return auth.identify(state.config, conn, request)


def needs(permission: Permission) -> Callable[[Request], Principal]:
    """Return the dependency that lets through whoever holds `permission`."""

    def check(request: Request) -> Principal:
        return auth.require(identify(request), permission)

    return check


Reader = Annotated[Principal, Depends(needs(Permission.READ))]
Someone = Annotated["Principal | None", Depends(identify)]
Shared = Annotated[State, Depends(state_of)]
Limit = Annotated[int, Query(ge=1, le=views.ROWS_MAX)]
Hours = Annotated[float, Query(gt=0, le=views.SERIES_HOURS_MAX, description="length of the window, in hours")]


def _found(row: T | None, what: str) -> T:
    if row is None:
        raise ApiError(404, "not_found", f"there is no {what}")
    return row


# --- health and identity -------------------------------------------------------------------------------------------------------


@router.get("/healthz", tags=["health"])
def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", tags=["health"])
def readyz(state: Shared) -> dict[str, str]:
    """Say whether the database answers with the tables that pages need; 503 when it does not."""
    with state.pool.connection(timeout=2.0) as conn:
        views.change_marks(conn)
    return {"status": "ready"}


class Me(BaseModel):
    """Who is asking, and what they may do."""

    actor: str
    name: str
    role: Role
    way: auth.Way
    crew_id: str | None
    read_only: bool
    may: list[Permission]
    title: str
    demo: bool


class Door(BaseModel):
    """What the login page needs to know."""

    title: str
    demo: bool


def _title(state: State) -> str:
    if state.config.title:
        return state.config.title
    with state.pool.connection() as conn:
        site = views.site(conn)
    return site.name if site else "underway"


@router.get("/api/me", tags=["identity"])
def me(request: Request, state: Shared, who: Someone) -> Me:
    """Return who is asking."""
    if who is None:
        raise ApiError(401, "login_required", "nobody is signed in")
    return Me(
        actor=who.actor,
        name=who.name,
        role=who.role,
        way=who.way,
        crew_id=who.crew_id,
        read_only=who.read_only,
        may=sorted(permission for permission in Permission if who.may(permission)),
        title=_title(state),
        demo=auth.demo_allowed(state.config, request),
    )


@router.get("/api/door", tags=["identity"])
def door(request: Request, state: Shared) -> Door:
    """Return what the login page shows before anyone is known."""
    return Door(title=state.config.title or "underway", demo=auth.demo_allowed(state.config, request))


class Login(BaseModel):
    """Account and password."""

    model_config = ConfigDict(extra="forbid")
    account: Annotated[str, Field(min_length=1, max_length=64)]
    password: Annotated[str, Field(min_length=1, max_length=auth.PASSWORD_CHARS_MAX)]


class DemoLogin(BaseModel):
    """The role of a demo sign-in."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["operator", "supervisor"]


def _with_session(state: State, cookie: str, role: str) -> JSONResponse:
    answer = JSONResponse({"role": role})
    answer.set_cookie(
        auth.SESSION_COOKIE,
        cookie,
        max_age=int(state.config.session_hours * 3600),
        path="/",
        httponly=True,
        samesite="strict",
        secure=state.config.secure_cookies,
    )
    return answer


@router.post("/api/login", tags=["identity"], responses={429: {"model": ErrorAnswer, "description": "too many failures; wait"}})
def login(body: Login, request: Request, state: Shared) -> JSONResponse:
    """Sign in: sets the session cookie. Five failures in five minutes from one address or for one account make it wait."""
    now_s = state.config.monotonic_s()
    keys = (f"address {request.client.host if request.client else '?'}", f"account {body.account}")
    wait_s = max(state.limiter.wait_s(key, now_s) for key in keys)
    if wait_s:
        raise ApiError(429, "too_many_failures", f"too many failed logins; try again in {wait_s} s", retry_after_s=wait_s)
    with state.pool.connection() as conn:
        row = views.account(conn, body.account)
    usable = row if row is not None and row.disabled_at is None else None
    if not auth.password_fits(usable.password_hash if usable else None, body.password) or usable is None:
        for key in keys:
            state.limiter.failed(key, now_s)
        raise ApiError(401, "login_failed", "account and password do not fit")
    for key in keys:
        state.limiter.succeeded(key)
    return _with_session(state, auth.session_for(state.config, usable), usable.role)


@router.post("/api/demo-login", tags=["identity"])
def demo_login(body: DemoLogin, request: Request, state: Shared) -> JSONResponse:
    """Sign in without a password: only in the demo, only from loopback."""
    if not auth.demo_allowed(state.config, request):
        raise ApiError(403, "no_demo", "a sign-in without password exists only in the demo and only from this machine")
    return _with_session(state, auth.demo_session_for(state.config, Role(body.role)), body.role)


@router.post("/api/logout", tags=["identity"])
def logout() -> JSONResponse:
    """Sign out: the session cookie goes."""
    answer = JSONResponse({"status": "signed out"})
    answer.delete_cookie(auth.SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    return answer


# --- what pages read -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClockView:
    """The time people see, how fast it runs against the wall, and how far it may be run on without news."""

    now_at: datetime
    speed: float
    ahead_s_max: float


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the operator page shows at a glance.

    ``lag_s`` is the age of the newest reading by the people's clock; ``readings_per_s`` what ingest stores a wall second, None when
    ingest says nothing.
    """

    clock: ClockView
    site: views.SiteView | None
    readings_per_s: float | None
    lag_s: float | None
    counts: views.Counts
    alarms: list[views.AlarmView]
    incidents: list[views.IncidentView]
    orders: list[views.OrderView]
    events: list[views.EventView]
    crews: list[views.CrewView]
    services: list[views.ServiceView]


def _overview(state: State) -> Overview:
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        town = read_clock(conn)
        services = views.services(conn)
        latest_at = views.latest_observed_at(conn)
        rates = [float(s.facts["readings_per_s"]) for s in services if isinstance(s.facts.get("readings_per_s"), int | float)]
        return Overview(
            clock=ClockView(now_at, town.speed if town else 1.0, town.ahead_s_max if town else 60.0),
            site=views.site(conn),
            readings_per_s=sum(rates) if rates else None,
            lag_s=max(0.0, (now_at - latest_at).total_seconds()) if latest_at else None,
            counts=views.counts(conn),
            alarms=views.alarms(conn),
            incidents=views.incidents(conn),
            orders=views.orders(conn, closed_since=now_at - timedelta(hours=HISTORY_HOURS), limit=60),
            events=views.events(conn, limit=60, moves_only=True),
            crews=views.crews(conn, now_at),
            services=services,
        )


@router.get("/api/overview", tags=["read"])
def overview(state: Shared, _: Reader) -> Overview:
    """Return the whole situation: clock, lag, counts, open alarms with evidence, incidents, orders with who is on it, latest events."""
    answer: Overview = state.overview.get(lambda: _overview(state))
    return answer


@router.get("/api/network", tags=["read"])
def network(request: Request, state: Shared, _: Reader) -> Response:
    """Return the map: zones, assets (``g`` is GeoJSON coordinates, longitude first) and devices. Answers 304 to a known ETag."""

    def ask() -> tuple[str, bytes]:
        with state.pool.connection() as conn:
            body = json.dumps(views.network(conn), separators=(",", ":")).encode()
        return f'"{hashlib.sha256(body).hexdigest()[:20]}"', body

    etag, body = state.network.get(ask)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match", "").removeprefix("W/") == etag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@dataclass(frozen=True, slots=True)
class ZoneSeries:
    """Series of one zone: its inflow, and the pressures inside it."""

    zone_id: str
    until_at: datetime
    hours: float
    inflow: list[views.SeriesView]
    pressures: list[views.SeriesView]


@router.get("/api/zones/{zone_id}/series", tags=["read"])
def zone_series(zone_id: str, state: Shared, _: Reader, hours: Hours = 48.0) -> ZoneSeries:
    """Return what flowed into a zone, what was expected (with sigma), and its pressures; empty before detectors expect anything."""
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        if not views.zone_exists(conn, zone_id):
            raise ApiError(404, "not_found", f"there is no zone '{zone_id}'")
        names = views.signals(conn, zone_id=zone_id)
        inflow = views.series(conn, [name for name in names if name == f"zone/{zone_id}/inflow"], now_at, hours)
        pressures = views.series(conn, [name for name in names if name.endswith("/pressure")], now_at, hours, points_max=400)
    return ZoneSeries(zone_id, now_at, hours, inflow, pressures)


@dataclass(frozen=True, slots=True)
class SignalSeries:
    """Series of some signals over one window."""

    until_at: datetime
    hours: float
    series: list[views.SeriesView]


@router.get("/api/signals", tags=["read"])
def signals(state: Shared, _: Reader, zone_id: str | None = None, asset_id: str | None = None) -> list[str]:
    """Return names of signals of which something is expected."""
    with state.pool.connection() as conn:
        return views.signals(conn, zone_id=zone_id, asset_id=asset_id)


@router.get("/api/signals/{name:path}/series", tags=["read"])
def signal_series(name: str, state: Shared, _: Reader, hours: Hours = 48.0) -> SignalSeries:
    """Return what was observed and expected of one signal, for example ``zone/z1/inflow``."""
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        found = views.series(conn, [name], now_at, hours)
    if not found:
        raise ApiError(404, "not_found", f"there is no signal '{name}'")
    return SignalSeries(now_at, hours, found)


@router.get("/api/assets/{asset_id}/series", tags=["read"])
def asset_series(asset_id: str, state: Shared, _: Reader, hours: Hours = 48.0) -> SignalSeries:
    """Return what was observed and expected of every signal of one asset (empty when nothing is expected of it)."""
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        return SignalSeries(now_at, hours, views.series(conn, views.signals(conn, asset_id=asset_id), now_at, hours))


@router.get("/api/alarms", tags=["alarms"])
def alarms(state: Shared, _: Reader, all: bool = False, limit: Limit = 200) -> list[views.AlarmView]:
    """Return the open alarms, most urgent first; with ``all`` also the closed ones."""
    with state.pool.connection() as conn:
        return views.alarms(conn, open_only=not all, limit=limit)


@dataclass(frozen=True, slots=True)
class AlarmDetail:
    """One alarm with its history and what its state allows."""

    alarm: views.AlarmView
    events: list[views.EventView]
    allowed: list[str]


@router.get("/api/alarms/{alarm_id}", tags=["alarms"])
def alarm(alarm_id: int, state: Shared, who: Reader) -> AlarmDetail:
    """Return one alarm, its history, and what you may do with it."""
    with state.pool.connection() as conn:
        row = _found(views.alarm(conn, alarm_id), f"alarm {alarm_id}")
        return AlarmDetail(row, views.events_of(conn, "alarm", alarm_id), actions.allowed_on_alarm(who, row.state))


@router.get("/api/orders", tags=["orders"])
def orders(state: Shared, _: Reader, all: bool = False, limit: Limit = 100) -> list[views.OrderView]:
    """Return the open work orders, most urgent first; with ``all`` also closed and cancelled ones."""
    with state.pool.connection() as conn:
        return views.orders(conn, open_only=not all, limit=limit)


@dataclass(frozen=True, slots=True)
class OrderDetail:
    """One work order with everything that happened to it and why, and where it may be."""

    order: views.OrderView
    incident: views.IncidentView | None
    events: list[views.EventView]
    assignments: list[views.AssignmentView]
    reviews: list[views.ReviewView]
    allowed: list[str]
    places: dict[str, dict[str, Any]]


def _candidates(order: views.OrderView) -> list[str]:
    listed = order.location.get("candidates") or []
    return [str(c["asset_id"]) for c in listed if isinstance(c, dict) and "asset_id" in c][:50]


@router.get("/api/orders/{order_id}", tags=["orders"])
def order(order_id: int, state: Shared, who: Someone) -> OrderDetail:
    """Return one work order with its transitions and reasons, assignments, clocks and candidate places; crews only their own."""
    with state.pool.connection() as conn:
        row = views.order(conn, order_id)
        reading = Permission.READ_OWN_ORDERS if who is not None and who.role is Role.CREW else Permission.READ
        auth.require_order(who, reading, row.crew_id if row else None)
        row = _found(row, f"order {order_id}")
        return OrderDetail(
            order=row,
            incident=views.incident(conn, row.incident_id),
            events=views.events_of(conn, "order", order_id),
            assignments=views.assignments_of(conn, order_id),
            reviews=views.reviews(conn, order_id=order_id),
            allowed=actions.allowed_on_order(who, row.state) if who else [],
            places=views.geometries(conn, [row.asset_id, *_candidates(row)]),
        )


@router.get("/api/incidents", tags=["read"])
def incidents(state: Shared, _: Reader, all: bool = False, limit: Limit = 50) -> list[views.IncidentView]:
    """Return the open incidents, newest first; with ``all`` also the resolved ones."""
    with state.pool.connection() as conn:
        return views.incidents(conn, open_only=not all, limit=limit)


@router.get("/api/findings", tags=["read"])
def findings(state: Shared, _: Reader, zone_id: str | None = None, kind: str | None = None, limit: Limit = 100) -> list[views.FindingView]:
    """Return what detectors concluded, newest first."""
    with state.pool.connection() as conn:
        return views.findings(conn, zone_id=zone_id, kind=kind, limit=limit)


@dataclass(frozen=True, slots=True)
class Losses:
    """What zones lost from a date to before another; `docs/losses.md` has the formulas."""

    first: date
    after_last: date
    zones: list[losses.ZoneLossView]
    repairs: list[losses.RecoveredView]


def _today(state: State, conn: Connection[Any]) -> date:
    """Return the site's date: a night belongs to the day on which it ends there."""
    site = views.site(conn)
    return state.config.clock.now_at().astimezone(ZoneInfo(site.timezone if site else "UTC")).date()


LossDays = Annotated[int, Query(gt=0, le=losses.DAYS_MAX, description="days up to today")]


@router.get("/api/losses", tags=["read"])
def zone_losses(state: Shared, _: Reader, days: LossDays = 28) -> Losses:
    """Return the water balance and the leakage index of every zone, and what each repair gave back."""
    with state.pool.connection() as conn:
        after_last = _today(state, conn)
        first = after_last - timedelta(days=days)
        return Losses(
            first=first,
            after_last=after_last,
            zones=losses.zones(conn, first, after_last),
            repairs=losses.repairs(conn, first, after_last + DAY),
        )


@router.get("/api/zones/{zone_id}/nights", tags=["read"])
def zone_nights(zone_id: str, state: Shared, _: Reader, days: LossDays = 28) -> list[losses.NightView]:
    """Return the night flow of one zone, night by night."""
    with state.pool.connection() as conn:
        _found(views.zone_exists(conn, zone_id) or None, f"zone '{zone_id}'")
        after_last = _today(state, conn) + DAY
        return losses.nights(conn, after_last - timedelta(days=days), after_last, zone_id)


@router.get("/api/quarantine", tags=["read"])
def quarantine(state: Shared, _: Reader, limit: Limit = 100) -> list[views.QuarantineView]:
    """Return what could not be taken in, with the reason, newest first."""
    with state.pool.connection() as conn:
        return views.quarantine(conn, limit=limit)


@router.get("/api/reviews", tags=["orders"])
def reviews(state: Shared, _: Reader, limit: Limit = 50) -> list[views.ReviewView]:
    """Return conflicting actions that wait for a person."""
    with state.pool.connection() as conn:
        return views.reviews(conn, limit=limit)


@router.get("/api/crews", tags=["read"])
def crews(state: Shared, _: Reader) -> list[views.CrewView]:
    """Return the crews: where they are, whether on shift, what they work on."""
    with state.pool.connection() as conn:
        return views.crews(conn, state.config.clock.now_at())


@dataclass(frozen=True, slots=True)
class CrewOrder:
    """One order as the crew sees it."""

    order: views.OrderView
    why: str
    allowed: list[str]
    checklist: list[str]
    places: dict[str, dict[str, Any]]
    events: list[views.EventView]


@dataclass(frozen=True, slots=True)
class CrewDay:
    """What the crew page shows: the crew, its orders (open first), the surroundings of the first one, and the codes of its forms."""

    clock: ClockView
    timezone: str
    crew: views.CrewView
    orders: list[CrewOrder]
    surroundings: list[dict[str, Any]]
    find_codes: list[str]
    waiting_reasons: list[str]


@router.get("/api/crew", tags=["crew"])
def crew_day(state: Shared, who: Annotated[Principal, Depends(needs(Permission.READ_OWN_ORDERS))]) -> CrewDay:
    """Return the day of the crew that asks (crew link as bearer token, or a crew's session)."""
    now_at = state.config.clock.now_at()
    with state.pool.connection() as conn:
        town = read_clock(conn)
        crew = _found(views.crew(conn, who.crew_id or "", now_at), "crew of yours")
        rows = views.orders(conn, crew_id=crew.crew_id, closed_since=now_at - timedelta(hours=HISTORY_HOURS), limit=20)
        found: list[CrewOrder] = []
        for row in rows:
            why = next((a.evidence.get("summary", "") for a in views.alarms_of_incident(conn, row.incident_id)), "")
            found.append(
                CrewOrder(
                    order=row,
                    why=str(why),
                    allowed=actions.allowed_on_order(who, row.state),
                    checklist=actions.checklist_of(row.order_type),
                    places=views.geometries(conn, [row.asset_id, *_candidates(row)]),
                    events=views.events_of(conn, "order", row.order_id, limit=50),
                )
            )
        zone_id = rows[0].zone_id if rows else None
        site = views.site(conn)
        return CrewDay(
            clock=ClockView(now_at, town.speed if town else 1.0, town.ahead_s_max if town else 60.0),
            timezone=site.timezone if site else "UTC",
            crew=crew,
            orders=found,
            surroundings=views.surroundings(conn, zone_id) if zone_id else [],
            find_codes=[code.value for code in FindCode],
            waiting_reasons=[reason.value for reason in WaitingReason],
        )


# --- actions ---------------------------------------------------------------------------------------------------------------------


class AlarmAction(BaseModel):
    """What an operator does with an alarm.

    ``action_id`` makes it safe to send again; ``shelve`` needs a reason and an end (``until`` or ``hours``); ``out_of_service`` needs
    ``body.reference`` (order or permit) and, for safety types, ``body.second_person``; ``return_to_service`` needs ``body.test_ok``.
    """

    model_config = ConfigDict(extra="forbid")
    event: Annotated[str, Field(max_length=40)]
    action_id: UUID
    reason: Annotated[str, Field(max_length=500)] = ""
    note: Annotated[str, Field(max_length=2000)] = ""
    until: AwareDatetime | None = None
    hours: Annotated[float, Field(gt=0, le=24 * 7)] | None = None
    body: dict[str, Any] = {}


class OrderAction(BaseModel):
    """What a crew or a supervisor does with an order.

    ``action_id`` makes it safe to send again, ``base_version`` says which version the person saw, ``device_at`` when they pressed.
    """

    model_config = ConfigDict(extra="forbid")
    event: Annotated[str, Field(max_length=40)]
    action_id: UUID
    device_at: AwareDatetime | None = None
    base_version: int | None = None
    body: dict[str, Any] = {}


@router.post("/api/alarms/{alarm_id}/actions", tags=["alarms"], responses=ACTION_REFUSALS)
def act_on_alarm(alarm_id: int, body: AlarmAction, state: Shared, who: Someone) -> actions.ActionAnswer:
    """Acknowledge, comment, shelve (with reason and end), unshelve; engineers take out of service and return to service."""
    permission = auth.ALARM_EVENT_PERMISSION.get(body.event)
    if permission is None:
        auth.require(who, Permission.ALARM_ACK)
        raise ApiError(422, "unknown_event", f"an alarm action must be one of {', '.join(auth.ALARM_EVENT_PERMISSION)}, got {body.event!r}")
    known = auth.require(who, permission)
    answer = actions.on_alarm(
        state,
        known,
        alarm_id,
        body.event,
        action_id=body.action_id,
        text=body.reason or body.note,
        until=body.until,
        hours=body.hours,
        body=body.body,
    )
    state.overview.forget()
    return answer


@router.post("/api/orders/{order_id}/actions", tags=["orders"], responses=ACTION_REFUSALS)
def act_on_order(order_id: int, body: OrderAction, response: Response, state: Shared, who: Someone) -> actions.ActionAnswer:
    """Report work (a crew only on its own orders), approve, assign or cancel (control room), waive, reject or sign off (supervisor)."""
    permission = auth.ORDER_EVENT_PERMISSION.get(body.event)
    if permission is None:
        auth.require(who, Permission.READ_OWN_ORDERS if who is not None and who.role is Role.CREW else Permission.READ)
        raise ApiError(422, "unknown_event", f"an order action must be one of {', '.join(auth.ORDER_EVENT_PERMISSION)}, got {body.event!r}")
    with state.pool.connection() as conn:
        exists, crew_id = views.order_crew_id(conn, order_id)
        if who is not None and who.crew_id not in (None, crew_id) and body.base_version is not None and body.event != "comment":
            # the order was theirs when they pressed and is not any more: what they report is a conflict that a person looks at
            crew_id = views.former_crew_id(conn, order_id, who.crew_id) or crew_id
    known = auth.require_order(who, permission, crew_id)
    if not exists:
        raise ApiError(404, "not_found", f"there is no order {order_id}")
    answer = actions.on_order(
        state,
        known,
        order_id,
        body.event,
        action_id=body.action_id,
        base_version=body.base_version,
        device_at=body.device_at,
        body=body.body,
    )
    if answer.result == "review":
        response.status_code = 202
    state.overview.forget()
    return answer


@router.post("/api/reviews/{review_id}/resolve", tags=["orders"])
def resolve_review(review_id: int, state: Shared, who: Annotated[Principal, Depends(needs(Permission.ORDER_DISPATCH))]) -> dict[str, str]:
    """Note that you have looked at a conflicting action and settled it."""
    if not actions.resolve_review(state, who, review_id):
        raise ApiError(404, "not_found", f"there is no open review item {review_id}")
    state.overview.forget()
    return {"status": "resolved"}


# --- live ------------------------------------------------------------------------------------------------------------------------


@router.get("/api/events", tags=["live"], response_class=EventSourceResponse)
async def live_events(request: Request) -> EventSourceResponse:
    """Push ``changed`` messages: ``{"seq", "topics"}`` names what to read again; ``resync`` says to read everything."""
    state = state_of(request)
    auth.require(await asyncio.to_thread(identify, request), Permission.READ)
    if state.hub.full:
        raise ApiError(503, "too_many_clients", "too many pages are live already; this one polls", retry_after_s=10)

    async def messages() -> AsyncIterator[ServerSentEvent]:
        async with state.hub.listen() as queue:
            yield ServerSentEvent(data=json.dumps({"seq": 0, "topics": [], "resync": True}), event="changed", retry=2000)
            while (message := await queue.get()) is not None:
                yield ServerSentEvent(data=json.dumps(message), event="changed")

    return EventSourceResponse(messages(), ping=PING_S, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
