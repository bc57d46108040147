// The crew page: one order, one big button, and a queue that survives a bad network.
import { $, ApiError, call, h, once, s, uuid } from "./dom.js";
import { glyph } from "./map.js";
import { num, pretty, span, verified } from "./words.js";
import { FORMS, LANGUAGES, dictionary } from "./crew-words.js";

const token = decodeURIComponent(location.pathname.split("/")[2] || "");
/** Whose queue it is: the crew that the token names, so that a newer link of the same crew finds what an older one has not sent. */
function crewOf(link) {
  try {
    const part = link.split(".")[0].replaceAll("-", "+").replaceAll("_", "/");
    const [crew] = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
    return `crew/${crew}`;
  } catch {
    return link.slice(0, 24);
  }
}
const mine = token ? crewOf(token) : "session";
const QUEUE = `underway-queue:${mine}`;
const DAY = `underway-day:${mine}`;
const LANGUAGE = "underway-language";
const NEXT = { accept: "ACCEPTED", depart: "EN_ROUTE", arrive: "IN_PROGRESS", pause: "WAITING", resume: "IN_PROGRESS", done: "DONE" };
const MAIN = { DISPATCHED: "accept", ACCEPTED: "depart", EN_ROUTE: "arrive", IN_PROGRESS: "done", WAITING: "resume" };
const SIDE = { DISPATCHED: ["decline"], ACCEPTED: ["arrive"], IN_PROGRESS: ["pause"] };
const POLL_MS = 3500;
const RETRY_MS = [1000, 2000, 4000, 8000, 15000, 30000];
const QUEUE_MAX = 50;
const APPLE = /iPhone|iPad|Macintosh/.test(navigator.userAgent); // knows no geo: links

const page = { day: null, at: 0, moves: 0, online: true, expired: false, form: null, t: dictionary("en"), language: "en" };

const load = (key, otherwise) => {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
};
const store = (key, value) => {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // private mode or full: the page still works while it is open
  }
};

let queue = load(QUEUE, []);

// --- sending -------------------------------------------------------------------------------------------------------------------

function enqueue(order, event, body) {
  if (queue.length >= QUEUE_MAX) return;
  queue.push({ order_id: order.order_id, label: order.label, event, action_id: uuid(), device_at: townNow().toISOString(), base_version: order.version, body, state: "waiting", tries: 0 });
  store(QUEUE, queue);
  page.form = null;
  render();
  send();
}

let sending = false;
let retry = null;
async function send() {
  clearTimeout(retry);
  if (sending) return;
  sending = true;
  try {
    for (;;) {
      const item = queue.find((q) => q.state === "waiting");
      if (!item) break;
      try {
        const answer = await call(`/api/orders/${item.order_id}/actions`, {
          token,
          body: { event: item.event, action_id: item.action_id, device_at: item.device_at, base_version: item.base_version, body: item.body },
          signal: AbortSignal.timeout(10000),
        });
        connected(true);
        if (answer.result === "review") {
          item.state = "refused";
          item.problem = "review";
        } else {
          queue = queue.filter((q) => q !== item);
          for (const later of queue) if (later.order_id === item.order_id && later.state === "waiting") later.base_version = answer.version;
          apply(item.order_id, answer);
        }
      } catch (error) {
        if (error instanceof ApiError && error.status < 500 && error.status !== 429 && error.status !== 408) {
          if (error.status === 401) {
            page.expired = true;
            break;
          }
          item.state = "refused";
          item.problem = error.unmet.length ? error.unmet.join("; ") : error.message;
        } else {
          item.tries += 1;
          if (!(error instanceof ApiError)) connected(false);
          retry = setTimeout(send, RETRY_MS[Math.min(item.tries, RETRY_MS.length) - 1]);
          break;
        }
      }
      store(QUEUE, queue);
    }
  } finally {
    sending = false;
    store(QUEUE, queue);
    render();
  }
  if (!queue.some((q) => q.state === "waiting")) read();
}

function apply(orderId, answer) {
  page.moves += 1;
  const entry = page.day?.orders.find((e) => e.order.order_id === orderId);
  if (!entry) return;
  entry.order.state = answer.state;
  entry.order.version = answer.version;
  entry.allowed = answer.allowed;
}

let reading = false;
async function read() {
  if (reading || page.expired) return;
  reading = true;
  const moves = page.moves;
  try {
    const day = await call("/api/crew", { token, signal: AbortSignal.timeout(8000) });
    if (moves !== page.moves) {
      setTimeout(read); // asked before an action arrived there: what it says is older than what is known
      return;
    }
    page.day = day;
    page.at = Date.now();
    store(DAY, { day, at: page.at });
    connected(true);
    if (!load(LANGUAGE, null)) speak(LANGUAGES[day.crew.language] ? day.crew.language : page.language);
    render();
    if (queue.some((q) => q.state === "waiting")) send();
  } catch (error) {
    if (error instanceof ApiError && [401, 403].includes(error.status)) page.expired = true;
    else connected(false);
    render();
  } finally {
    reading = false;
  }
}

function connected(yes) {
  page.online = yes;
}

// --- showing -------------------------------------------------------------------------------------------------------------------

function townNow() {
  const c = page.day?.clock;
  if (!c) return new Date();
  const ahead = Math.min(((Date.now() - page.at) / 1000) * c.speed, c.speed > 1 ? c.ahead_s_max : Infinity);
  return new Date(Date.parse(c.now_at) + ahead * 1000);
}

function hm(when) {
  const zone = page.day?.timezone;
  return new Date(when).toLocaleTimeString(page.language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(zone ? { timeZone: zone } : {}) });
}

/** The order as it will be when everything that was pressed has been sent. */
function pressed(entry) {
  let state = entry.order.state;
  let waiting = false;
  for (const q of queue) {
    if (q.order_id !== entry.order.order_id || q.state !== "waiting") continue;
    state = NEXT[q.event] || state;
    waiting = true;
  }
  return { state, waiting };
}

function centre(entry) {
  const o = entry.order;
  if (o.location.point) return o.location.point;
  const first = (o.location.candidates || [])[0]?.asset_id ?? o.asset_id;
  const g = entry.places[first]?.geometry;
  if (!g) return null;
  if (g.type === "Point") return g.coordinates;
  const line = g.type === "Polygon" ? g.coordinates[0] : g.coordinates;
  return line[Math.floor(line.length / 2)];
}

function sketch(entry, lines) {
  const at = centre(entry);
  if (!at) return null;
  const k = Math.cos((at[1] * Math.PI) / 180);
  const xy = (p) => [(p[0] - at[0]) * 111320 * k, -(p[1] - at[1]) * 111320];
  const d = (list) => list.map((g) => `M${g.map((p) => xy(p).map((v) => v.toFixed(1)).join(" ")).join("L")}`).join("");
  const candidates = entry.order.location.candidates || [];
  const spots = candidates.map((c) => entry.places[c.asset_id]?.geometry).filter((g) => g?.type === "LineString").map((g) => g.coordinates);
  const reach = Math.max(140, ...spots.flat().map(xy).map((p) => Math.max(Math.abs(p[0]) / 1.7, Math.abs(p[1])) * 1.25));
  const w = reach * 1.7;
  return s(
    "svg",
    { className: "sketch", viewBox: `${-w} ${-reach} ${2 * w} ${2 * reach}`, role: "img", "aria-label": page.t("candidates"), preserveAspectRatio: "xMidYMid slice" },
    s("path", { className: "road", d: d(lines.filter((l) => l.class === "road_section").map((l) => l.g)) }),
    s("path", { className: "pipe", d: d(lines.filter((l) => l.class === "pipe").map((l) => l.g)) }),
    ...candidates.map((c) => {
      const g = entry.places[c.asset_id]?.geometry;
      return g?.type === "LineString" ? s("path", { className: "hot", d: d([g.coordinates]), style: { "stroke-width": `${3 + 6 * c.probability}px`, "stroke-opacity": String(0.35 + 0.65 * Math.min(1, c.probability * 2)) } }) : null;
    }),
    s("circle", { r: reach * 0.06 }),
  );
}

function checking(o) {
  const { t } = page;
  const sentence = pretty(o.verification?.sentence);
  if (["DONE", "VERIFYING"].includes(o.state)) {
    const share = verified(o);
    return h("div", { className: "check", "data-testid": "verification" }, h("p", { className: "verdict" }, t(o.outcome === "INCONCLUSIVE" ? "outcome.INCONCLUSIVE" : "checking")), sentence ? h("p", {}, sentence) : h("p", { className: "soft" }, t("checkingMore")), share !== null && h("progress", { max: 1, value: share, "aria-label": t("progress") }));
  }
  if (o.outcome && o.outcome !== "PENDING") {
    return h("div", { className: `check ${o.outcome === "FAIL" ? "bad" : ""}`, "data-testid": "verdict" }, h("p", { className: "verdict" }, t(`outcome.${o.outcome}`)), sentence && h("p", {}, sentence));
  }
  return null;
}

function press(entry, event) {
  if (["done", "pause", "decline"].includes(event)) {
    page.form = { order_id: entry.order.order_id, event };
    render();
    $("main").querySelector("form input, form select, form textarea")?.focus();
  } else enqueue(entry.order, event, {});
}

function card(entry) {
  const { t } = page;
  const o = entry.order;
  const { state, waiting } = pressed(entry);
  const main = MAIN[state];
  const side = SIDE[state] || [];
  const ok = (event) => waiting || entry.allowed.includes(event);
  const at = centre(entry);
  const candidates = (o.location.candidates || []).slice(0, 3);
  const clockDue = o.clocks.find((c) => c.name === "on_site" && c.state === "RUNNING");
  const left = clockDue ? (Date.parse(clockDue.due_at) - townNow()) / 1000 : null;
  const travelling = ["DISPATCHED", "ACCEPTED", "EN_ROUTE"].includes(state);
  const working = ["IN_PROGRESS", "WAITING"].includes(state);
  const buttons = [main, ...side].filter(Boolean);
  return h(
    "article",
    { className: "card", "data-testid": "order-card", "data-state": state },
    h("div", { className: "top" }, glyph(o.priority), h("div", {}, h("h2", {}, o.title), h("p", { className: "soft" }, `${o.label} · ${o.zone_name && o.asset_id.startsWith("dma:") ? o.zone_name : o.asset_name}`))),
    h("p", { className: "now" }, h("b", { "data-testid": "state" }, t(`state.${state}`), state === "WAITING" && o.waiting_reason ? `: ${t(`waitingReason.${o.waiting_reason}`)}` : ""), left !== null && travelling ? h("span", { className: left < 0 ? "late" : "soft" }, `${t(left < 0 ? "overdue" : "due")} ${span(Math.abs(left))}`) : o.since_at && h("span", { className: "soft" }, `${t("since")} ${hm(o.since_at)}`)),
    o.rework > 0 && (travelling || working) && h("div", { className: "check bad" }, h("p", { className: "verdict" }, t("reworked")), o.verification?.sentence && h("p", {}, pretty(o.verification.sentence))),
    !(o.rework > 0 && (travelling || working)) && !waiting && checking(o),
    page.form?.order_id === o.order_id ? form(entry, page.form.event) : h("div", { className: "actions" }, ...buttons.map((event, i) => h("button", { type: "button", className: i === 0 ? "go" : "", disabled: !ok(event), "data-event": event, onclick: () => press(entry, event) }, t(`event.${event}`)))),
    page.form?.order_id !== o.order_id && [
      (travelling || working) && sketch(entry, page.day.surroundings),
      at && travelling && h("a", { className: "button", href: APPLE ? `maps:?daddr=${at[1]},${at[0]}` : `geo:${at[1]},${at[0]}?q=${at[1]},${at[0]}`, "data-testid": "navigate" }, t("navigate")),
      entry.why && (travelling || working) && [h("h3", {}, t("why")), h("p", { className: "why" }, pretty(entry.why))],
      candidates.length > 0 && (travelling || working) && [h("h3", {}, t("candidates")), h("ul", { className: "places" }, ...candidates.map((c) => h("li", {}, h("span", {}, entry.places[c.asset_id]?.name || c.asset_id), h("span", {}, `${num(c.probability * 100, 2)} %`))))],
    ],
  );
}

function form(entry, event) {
  const { t } = page;
  const o = entry.order;
  const codes = FORMS[o.order_type] || { problem: ["OTH"], cause: ["unknown"], remedy: ["other", "not_required"] };
  const options = (name) => h("div", {}, h("label", { className: "label", for: `f-${name}` }, t(name)), h("select", { id: `f-${name}`, name, required: true }, h("option", { value: "", selected: true }, `${t("choose")} …`), ...codes[name].map((c) => h("option", { value: c }, t(`codes.${c}`)))));
  const radios = (name, label, pairs, chosen) => h("fieldset", {}, h("legend", {}, label), ...pairs.map(([value, text]) => h("label", { className: "choice" }, h("input", { type: "radio", name, value, required: true, checked: value === chosen }), h("span", {}, text))));
  const text = (name, required) => h("div", {}, h("label", { className: "label", for: `f-${name}` }, t(name)), h("textarea", { id: `f-${name}`, name, rows: 2, maxLength: 500, required }));
  let fields;
  let body;
  if (event === "pause") {
    fields = [radios("waiting_reason", t("reason"), page.day.waiting_reasons.map((r) => [r, t(`waitingReason.${r}`)]))];
    body = (f) => ({ waiting_reason: f.get("waiting_reason") });
  } else if (event === "decline") {
    fields = [text("reason", true)];
    body = (f) => ({ reason: f.get("reason") });
  } else {
    const places = (o.location.candidates || []).slice(0, 6).map((c) => [c.asset_id, `${entry.places[c.asset_id]?.name || c.asset_id} (${num(c.probability * 100, 2)} %)`]);
    // nothing is chosen beforehand: what crews find is what detectors learn from
    fields = [
      radios("find_code", t("find"), page.day.find_codes.map((c) => [c, t(`findCode.${c}`)])),
      places.length > 0 && radios("asset_id", t("where"), [...places, ["", t("elsewhere")]]),
      options("problem"),
      options("cause"),
      options("remedy"),
      entry.checklist.length > 0 && h("fieldset", {}, h("legend", {}, t("checklist")), ...entry.checklist.map((item) => h("label", { className: "choice" }, h("input", { type: "checkbox", name: `check:${item}`, required: true }), h("span", {}, t(`check.${item}`))))),
      text("note", false),
      h("label", { className: "choice" }, h("input", { type: "checkbox", name: "staying" }), h("span", {}, t("staying"))),
    ];
    body = (f) => ({
      find_code: f.get("find_code"),
      ...(f.get("asset_id") || places.length === 0 ? { asset_id: f.get("asset_id") || o.asset_id } : {}),
      problem: f.get("problem"),
      cause: f.get("cause"),
      remedy: f.get("remedy"),
      checklist: Object.fromEntries(entry.checklist.map((item) => [item, f.has(`check:${item}`)])),
      note: f.get("note"),
      ...(f.has("staying") ? { staying: true } : {}),
    });
  }
  const el = h(
    "form",
    { "data-testid": `form-${event}`, onsubmit: (e) => { e.preventDefault(); enqueue(o, event, body(new FormData(el))); } },
    ...fields.filter(Boolean),
    h("div", { className: "two" }, h("button", { type: "button", onclick: () => { page.form = null; render(); } }, t("cancel")), h("button", { type: "submit", className: "go", "data-testid": "send" }, event === "done" ? t("event.done") : t("send"))),
  );
  return el;
}

let drawn = "";
function render() {
  const { t, day } = page;
  $("link").textContent = page.online ? t("online") : `${t("asOf")} ${day ? hm(day.clock.now_at) : "–"}`;
  $("banner").hidden = page.online && !page.expired;
  const signIn = page.expired && !token; // somebody with an account and no link
  once($("banner"), [page.expired, signIn, page.language], () => (signIn ? [h("a", { href: "/login" }, t("signIn"))] : [page.expired ? t("expired") : t("offline")]));
  $("queue").replaceChildren(
    ...queue.map((q) =>
      h(
        "li",
        { className: q.state },
        h("span", {}, h("b", {}, `${q.label}: ${t(`event.${q.event}`)}`), " ", q.state === "waiting" ? (page.online && sending ? t("sending") : t("waiting")) : q.problem === "review" ? t("review") : `${t("refused")}: ${q.problem}`),
        q.state === "refused" && h("button", { type: "button", onclick: () => { queue = queue.filter((x) => x !== q); store(QUEUE, queue); render(); } }, t("dismiss")),
      ),
    ),
  );
  if (!day) return;
  $("crew").textContent = day.crew.name;
  const open = day.orders.filter((e) => !["CLOSED", "CANCELLED"].includes(e.order.state));
  const past = day.orders.filter((e) => ["CLOSED", "CANCELLED"].includes(e.order.state));
  if (page.form && !open.some((e) => e.order.order_id === page.form.order_id)) page.form = null;
  const mark = JSON.stringify([open.map((e) => [e, pressed(e)]), page.form, page.language, Math.floor(townNow() / 60000)]);
  const typing = page.form && $("main").querySelector("form");
  if (mark !== drawn && !(typing && typing.dataset.testid === `form-${page.form.event}`)) {
    drawn = mark;
    const focus = document.activeElement?.dataset?.event;
    $("main").replaceChildren(...(open.length ? open.map(card) : [h("div", { className: "card", "data-testid": "free" }, h("h2", {}, t("free")), h("p", { className: "soft" }, t("freeMore")))]));
    if (focus) $("main").querySelector(`[data-event="${focus}"]`)?.focus({ preventScroll: true });
  }
  $("past").replaceChildren(...(past.length ? [h("h3", {}, t("past")), h("ul", { className: "past" }, ...past.map((e) => h("li", {}, h("b", {}, `${e.order.label} ${e.order.title}`), h("p", {}, e.order.outcome ? t(`outcome.${e.order.outcome}`) : t(`state.${e.order.state}`)), h("p", { className: "soft" }, pretty(e.order.verification?.sentence)))))] : []));
}

function speak(code) {
  page.language = LANGUAGES[code] ? code : "en";
  page.t = dictionary(page.language);
  document.documentElement.lang = page.language;
  $("language-label").textContent = page.t("language");
  $("language").value = page.language;
  drawn = "";
}

function start() {
  $("language").replaceChildren(...Object.entries(LANGUAGES).map(([code, [name]]) => h("option", { value: code }, name)));
  $("language").addEventListener("change", (e) => {
    store(LANGUAGE, e.target.value);
    speak(e.target.value);
    render();
  });
  speak(load(LANGUAGE, null) || navigator.language.slice(0, 2));
  const last = load(DAY, null);
  if (last) Object.assign(page, last);
  render();
  read();
  send();
  setInterval(() => document.visibilityState === "visible" && read(), POLL_MS);
  setInterval(render, 15000);
  addEventListener("online", () => { read(); send(); });
  addEventListener("offline", () => { connected(false); render(); });
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && (read(), send()));
  if ("serviceWorker" in navigator && isSecureContext) navigator.serviceWorker.register("/crew-worker.js", { scope: "/crew" }).catch(() => {});
}

start();
