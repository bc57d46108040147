// The operator page: what is wrong, where, since when, and who is on it.
import { $, ApiError, call, h, keyed, once, s, uuid } from "./dom.js";
import { Chart } from "./chart.js";
import { NetworkMap, glyph } from "./map.js";
import { phaseOf, plannedBody, plannedFields, plannedList } from "./planned.js";
import { ALARM_STATE, CLOCK, ORDER_EVENT, ORDER_STATE, PRIORITY, STEPS, STEP_OF, Times, kind, num, pretty, signal, span, unit, verified, words } from "./words.js";

const RANK = ["urgent", "high", "medium", "low", "journal"];
const HOURS = [6, 24, 48, 168];
const MUTE_S = 60; // a service that has said nothing for longer
const BEHIND_S = 3 * 3600; // data older than this cannot say that all is well
const LOST_AFTER_MS = 3000;
const POLL_MS = 10000;
const OPEN = (o) => !["CLOSED", "CANCELLED"].includes(o.state);
const NEEDS_PERSON = (a) => a.suppression === "none" && a.ack === "unacked";
const BETWEEN = ["INVESTIGATING", "ACTION", "VERIFYING"]; // of an incident: its alarms and orders say the same
const QUIET = (a) => a.suppression !== "none";

const view = { me: null, data: null, read: 0, times: new Times("UTC"), names: {}, zones: {}, selected: null, zone: null, hours: 48, signal: null, followed: false, known: null, planned: [] };
let map;
let chart;

// --- time ------------------------------------------------------------------------------------------------------------------

/** The people's clock, run on from the last answer, never further ahead than the server allows. */
function now() {
  if (!view.data) return Date.now();
  const c = view.data.clock;
  const ahead = Math.min(((performance.now() - view.read) / 1000) * c.speed, c.speed > 1 ? Math.min(c.ahead_s_max, 2 * c.speed) : 3600);
  return Date.parse(c.now_at) + ahead * 1000;
}

const since = (when) => h("time", { dateTime: when, title: view.times.full.format(new Date(when)), "data-since": when }, span((now() - Date.parse(when)) / 1000));
const clock = (when) => view.times.at(when, now());

function tick() {
  if (!view.data) return;
  const at = now();
  $("clock").textContent = view.times.full.format(at);
  for (const el of document.querySelectorAll("[data-since]")) {
    const text = span((at - Date.parse(el.dataset.since)) / 1000);
    if (el.textContent !== text) el.textContent = text;
  }
  for (const el of document.querySelectorAll("[data-due]")) {
    const left = (Date.parse(el.dataset.due) - at) / 1000;
    const text = left >= 0 ? `due in ${span(left)}` : `overdue by ${span(-left)}`;
    if (el.textContent !== text) el.textContent = text;
    el.classList.toggle("late", left < 0);
  }
}

// --- saying it ----------------------------------------------------------------------------------------------------------------

const where = (a) => a.zone_name && String(a.asset_id).startsWith("dma:") ? a.zone_name : a.asset_name !== a.asset_id || !a.zone_name ? a.asset_name : `${a.asset_name}, ${a.zone_name}`;

function onIt(x) {
  const state = "alarm_id" in x ? x.order_state : x.state;
  if (!state || state === "CANCELLED") return "nobody is on it";
  if (["NEW", "APPROVED", "SCHEDULED"].includes(state)) return x.crew_name ? `${x.crew_name} is planned` : "looking for a crew";
  const who = x.crew_name || "a crew";
  return (
    {
      DISPATCHED: `sent to ${who}, not accepted yet`,
      ACCEPTED: `${who} has accepted`,
      EN_ROUTE: `${who} is driving there`,
      IN_PROGRESS: `${who} is on site`,
      WAITING: `${who} is waiting`,
      DONE: `${who} reported it done`,
      VERIFYING: `${who} reported it done, signals are being checked`,
      CLOSED: "repair verified",
    }[state] || who
  );
}

function headline() {
  const { alarms, orders, counts, services, lag_s } = view.data;
  const loud = alarms.filter(NEEDS_PERSON);
  const stuck = orders.filter((o) => OPEN(o) && o.outcome === "INCONCLUSIVE");
  const unmanned = orders.filter((o) => ["NEW", "APPROVED", "SCHEDULED"].includes(o.state) && !o.crew_id && (now() - Date.parse(o.created_at)) / 1000 > 900);
  const mute = services.filter((x) => x.silent_s > MUTE_S);
  const behind = lag_s !== null && lag_s > BEHIND_S;
  const things = loud.length + stuck.length + unmanned.length + mute.length + counts.reviews_open;
  const busy = orders.filter(OPEN);
  if (!things && behind) return { calm: true, text: `The newest reading is ${span(lag_s)} old.`, more: "Older readings are being taken in, or sensors are silent: what is not known cannot be called normal.", priority: null };
  if (!things) {
    const working = busy.length ? `${busy.length === 1 ? "One order is" : `${busy.length} orders are`} being worked on: ${busy.slice(0, 2).map((o) => `${o.title}, ${onIt(o)}`).join("; ")}.` : lag_s === null ? "No reading has arrived yet." : "All zones are as expected.";
    return { calm: true, text: "Nothing needs a person.", more: working, priority: null };
  }
  const first = loud[0];
  if (first) {
    const over = first.state === "RTNUN";
    const text = `${kind(first.alarm_type)} in ${where(first)} ${over ? "is over" : `since ${clock(first.occurred_at)}`}`;
    const more = [onIt(first).replace(/^./, (c) => c.toUpperCase()) + ".", over ? "It waits to be acknowledged." : "Not acknowledged."];
    if (things > 1) more.push(`${things - 1} more ${things === 2 ? "thing needs" : "things need"} a person.`);
    return { calm: false, text, more: more.join(" "), priority: first.priority };
  }
  if (mute[0]) return { calm: false, text: `The service ${mute[0].service} has said nothing for ${span(mute[0].silent_s)}`, more: "What depends on it stands still.", priority: "high" };
  if (stuck[0]) return { calm: false, text: `${stuck[0].label}: the signals cannot decide`, more: `${stuck[0].title}. A supervisor has to look.`, priority: stuck[0].priority };
  if (unmanned[0]) return { calm: false, text: `${unmanned[0].label} has no crew since ${clock(unmanned[0].created_at)}`, more: unmanned[0].title, priority: unmanned[0].priority };
  return { calm: false, text: `${counts.reviews_open} conflicting ${counts.reviews_open === 1 ? "report waits" : "reports wait"} for a decision`, more: "", priority: "medium" };
}

// --- actions -------------------------------------------------------------------------------------------------------------------

const may = (what) => Boolean(view.me?.may.includes(what));

function note(message, bad = false) {
  const el = h("p", { className: `toast ${bad ? "bad" : ""}`, role: bad ? "alert" : "status" }, message);
  const dialog = $("dialog");
  (bad && dialog.open ? dialog : document.body).append(el); // behind an open dialog nobody would see or hear it
  setTimeout(() => el.remove(), bad ? 9000 : 4000);
}

async function act(path, body, said) {
  try {
    const answer = await call(path, { body: { action_id: uuid(), ...body } });
    note(answer.result === "review" ? answer.message || "In conflict with what happened meanwhile: a review item was made" : said);
    await refresh();
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) location.assign(`/login${location.hash}`);
    else note(error.unmet?.length ? error.unmet.join("; ") : error.message, true);
    return false;
  }
}

const actAlarm = (a, event, extra = {}) => act(`/api/alarms/${a.alarm_id}/actions`, { event, ...extra }, event === "ack" ? "Acknowledged" : "Noted");
const actOrder = (o, event, body = {}) => act(`/api/orders/${o.order_id}/actions`, { event, base_version: o.version, body }, `${o.label}: ${ORDER_EVENT[event] || event}`);

function openDialog(title, content, wide = false) {
  const dialog = $("dialog");
  dialog.className = wide ? "wide" : "";
  dialog.replaceChildren(
    h("div", { className: "panel-head" }, h("h2", { id: "dialog-title" }, title), h("button", { type: "button", className: "plain", "aria-label": "Close", onclick: () => dialog.close() }, "✕")),
    content,
  );
  if (!dialog.open) dialog.showModal();
  else (content.querySelector("input, select, textarea") || dialog.querySelector("button")).focus(); // what had the focus is gone
  return dialog;
}

/** A small form in a dialog; `fields` are [name, label, element]. */
function ask(title, fields, go, button) {
  const form = h(
    "form",
    {
      className: "form",
      onsubmit: async (e) => {
        e.preventDefault();
        if (await go(Object.fromEntries(new FormData(form)))) $("dialog").close();
      },
    },
    ...fields.map(([name, label, el]) => {
      el.name = name;
      el.id = `f-${name}`;
      return h("p", { className: "field" }, h("label", { for: el.id }, label), el);
    }),
    h("p", { className: "buttons" }, h("button", { type: "button", onclick: () => $("dialog").close() }, "Back"), h("button", { type: "submit", className: "main" }, button)),
  );
  openDialog(title, form);
}

const area = (required = true) => h("textarea", { rows: 3, maxLength: 500, required });
const select = (pairs) => h("select", {}, ...pairs.map(([value, text]) => h("option", { value }, text)));

function shelve(a) {
  const limits = view.me.role === "supervisor" ? [1, 4, 8, 24, 72] : [1, 2, 4, 8];
  ask(
    `Shelve: ${kind(a.alarm_type)}, ${where(a)}`,
    [
      ["hours", "For how long", select(limits.map((v) => [v, `${v} h`]))],
      ["reason", "Why", area()],
    ],
    (f) => actAlarm(a, "shelve", { reason: f.reason, hours: Number(f.hours) }),
    "Shelve",
  );
}

function orderForm(o, event) {
  if (event === "assign") {
    const crews = view.data.crews.filter((c) => c.skills.includes(o.required_skill));
    if (!crews.length) return note(`No crew has the skill ${words(o.required_skill)} now`, true);
    return ask(
      `${o.label}: assign a crew`,
      [["crew_id", "Crew", select(crews.map((c) => [c.crew_id, `${c.name}${c.on_shift ? "" : " (not on shift)"}${c.order_id ? `, busy with WO-${c.order_id}` : ""}`]))], ["reason", "Why", area(false)]],
      (f) => actOrder(o, event, f),
      "Assign",
    );
  }
  if (event === "pause") {
    const reasons = ["MATERIAL", "CONDITION", "ACCESS", "PERMIT", "WEATHER", "THIRD_PARTY", "DAYLIGHT"];
    return ask(`${o.label}: pause`, [["waiting_reason", "Waiting for", select(reasons.map((r) => [r, words(r)]))]], (f) => actOrder(o, event, f), "Pause");
  }
  if (["decline", "reschedule", "cancel", "waive", "reject", "sign_off", "unschedule"].includes(event)) {
    return ask(`${o.label}: ${ORDER_EVENT[event].toLowerCase()}`, [["reason", "Why", area()]], (f) => actOrder(o, event, f), ORDER_EVENT[event]);
  }
  if (event === "comment") return ask(`${o.label}: comment`, [["note", "Comment", area()]], (f) => actOrder(o, event, f), "Comment");
  return actOrder(o, event);
}

// --- lists ---------------------------------------------------------------------------------------------------------------------

function alarmCard(a) {
  const active = view.selected === a.alarm_id;
  return h(
    "li",
    { className: `card alarm ${a.priority} ${a.state}${active ? " selected" : ""}`, "data-testid": "alarm", "data-id": a.alarm_id },
    h(
      "button",
      { type: "button", className: "card-main", "aria-pressed": String(active), "data-focus": `a${a.alarm_id}`, onclick: () => pick(a.alarm_id) },
      glyph(a.priority),
      h(
        "span",
        { className: "card-text" },
        h("span", { className: "card-title" }, h("span", {}, h("strong", {}, kind(a.alarm_type)), ` ${where(a)}`), h("span", { className: "age", "data-testid": "age" }, since(a.occurred_at))),
        h("span", { className: "card-why" }, pretty(a.evidence.summary) || "No evidence sentence."),
        h(
          "span",
          { className: "card-foot" },
          h("span", { className: `state ${a.state}`, title: ALARM_STATE[a.state] }, a.state),
          a.order_id && h("span", {}, `WO-${a.order_id}`),
          h("span", {}, a.suppression === "shelved" && a.shelved_until ? `until ${clock(a.shelved_until)}` : a.suppression === "none" || a.order_id ? onIt(a) : ALARM_STATE[a.state]),
          a.order_since_at && h("span", {}, `since ${clock(a.order_since_at)}`),
          a.evidence_stale_since && h("span", { className: "stale" }, "no data for ", since(a.evidence_stale_since)),
          a.occurrence > 1 && h("span", {}, `${a.occurrence}×`),
        ),
      ),
    ),
    a.ack === "unacked" && a.suppression === "none" && may("acknowledge and comment alarms") &&
      h("button", { type: "button", className: "ack", "data-testid": "ack", "data-focus": `k${a.alarm_id}`, "aria-label": `Acknowledge ${kind(a.alarm_type)} ${where(a)}`, onclick: () => actAlarm(a, "ack") }, "Acknowledge"),
  );
}

function stepper(o) {
  const at = STEPS.includes(o.state) ? STEPS.indexOf(o.state) : (STEP_OF[o.state] ?? 0);
  return h(
    "ol",
    { className: "stepper", "aria-label": `${ORDER_STATE[o.state]}, step ${at + 1} of ${STEPS.length}` },
    ...STEPS.map((step, i) => h("li", { className: i < at ? "past" : i === at ? "here" : "", title: ORDER_STATE[step], "aria-hidden": "true" })),
  );
}

function verification(o) {
  const v = o.verification || {};
  const sentence = v.sentence || "";
  if (!["DONE", "VERIFYING", "CLOSED"].includes(o.state) && !sentence) return null;
  const share = o.state === "CLOSED" ? 1 : verified(o);
  const word = o.outcome && o.outcome !== "PENDING" ? { PASS: "Verified by the sensors", FAIL: "Not fixed, says the sensors' check", INCONCLUSIVE: "The signals cannot decide", WAIVED: "Waived by a supervisor" }[o.outcome] : null;
  if (!sentence && !word) return null;
  return h(
    "p",
    { className: `verification ${o.outcome || ""}`, "data-testid": "verification" },
    share !== null && o.state === "VERIFYING" && h("progress", { max: 1, value: share, "aria-label": "Verification so far" }),
    h("span", {}, word && h("strong", {}, `${word}${sentence ? ". " : ""}`), pretty(sentence)),
  );
}

function orderCard(o) {
  const running = o.clocks.find((c) => c.state === "RUNNING");
  const broken = o.clocks.filter((c) => c.state === "BREACHED");
  return h(
    "li",
    { className: `card order ${o.state}`, "data-testid": "order", "data-id": o.order_id },
    h(
      "button",
      { type: "button", className: "card-main", "data-focus": `o${o.order_id}`, onclick: () => showOrder(o.order_id) },
      h(
        "span",
        { className: "card-text" },
        h("span", { className: "card-title" }, h("span", {}, h("strong", {}, o.label), ` ${o.title}`, o.rework > 0 && h("span", { className: "rework" }, `${o.rework}× sent back`)), h("span", { className: "age" }, OPEN(o) ? since(o.created_at) : clock(o.closed_at))),
        h("span", { className: "order-line" }, stepper(o), h("span", { className: "order-state" }, h("b", {}, ORDER_STATE[o.state] || o.state), o.waiting_reason && ` for ${words(o.waiting_reason)}`, o.since_at && OPEN(o) && ` since ${clock(o.since_at)}`)),
        h(
          "span",
          { className: "card-foot" },
          h("span", {}, o.crew_name || (OPEN(o) ? "no crew yet" : "no crew")),
          OPEN(o) && running && h("span", {}, `${CLOCK[running.name] || words(running.name)} `, h("span", { "data-due": running.due_at })),
          OPEN(o) && !running && o.clocks.some((c) => c.state === "MET") && h("span", {}, `${o.clocks.filter((c) => c.state === "MET").map((c) => (CLOCK[c.name] || words(c.name)).toLowerCase()).join(" and ")} in time`),
          broken.map((c) => h("span", { className: "late" }, `${CLOCK[c.name] || words(c.name)} late`)),
        ),
      ),
    ),
    verification(o),
  );
}

function eventLine(e) {
  const subject = e.subject === "order" ? `WO-${e.subject_id}` : e.subject === "alarm" ? "Alarm" : "Incident";
  const said = e.from_state === e.to_state ? words(e.event) : e.subject === "order" ? ORDER_STATE[e.to_state] || e.to_state : e.subject === "alarm" ? (ALARM_STATE[e.to_state] || e.to_state).toLowerCase() : words(e.to_state);
  const [type, ...rest] = String(e.title || "").split(" ");
  const title = e.subject === "alarm" ? `${kind(type)}, ${rest.join(" ")}` : e.title;
  const why = e.note || words(e.reason);
  return h(
    "li",
    { "data-testid": "event" },
    h("time", { dateTime: e.at, title: view.times.full.format(new Date(e.at)) }, clock(e.at)),
    h("span", { title: why }, h("b", {}, subject), ` ${said}`, h("span", { className: "soft" }, ` · ${title || ""} · ${person(e.actor)}${why ? `: ${pretty(why)}` : ""}`)),
  );
}

function person(actor) {
  if (!actor || actor.startsWith("system")) return "underway";
  if (actor.startsWith("detector/")) return `detector ${actor.slice(9)}`;
  if (actor.startsWith("crew/")) return view.data?.crews.find((c) => c.crew_id === actor.slice(5))?.name || actor;
  return actor;
}

// --- evidence --------------------------------------------------------------------------------------------------------------------

function gauge(e) {
  const values = [e.observed, e.expected, e.band_low, e.band_high].filter(Number.isFinite);
  if (values.length < 4) return null;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low) * 0.12 || 1;
  const x = (v) => 4 + ((v - low + room) / (high - low + 2 * room)) * 292;
  return s(
    "svg",
    { className: "gauge", viewBox: "0 0 300 30", role: "img", "aria-label": `Observed ${num(e.observed)}, normal ${num(e.band_low)} to ${num(e.band_high)} ${unit(e.unit)}`, preserveAspectRatio: "none" },
    s("rect", { x: 0, y: 12, width: 300, height: 6, className: "rail" }),
    s("rect", { x: x(e.band_low), y: 8, width: Math.max(2, x(e.band_high) - x(e.band_low)), height: 14, className: "band" }),
    s("rect", { x: x(e.expected) - 1, y: 5, width: 2, height: 20, className: "expected" }),
    s("rect", { x: x(e.observed) - 2.5, y: 2, width: 5, height: 26, className: "observed" }),
  );
}

function evidence(a) {
  const e = a.evidence || {};
  const drivers = (e.drivers || []).slice(0, 5);
  const candidates = (e.candidates || []).slice(0, 5);
  const buttons = [];
  if (may("shelve alarms")) {
    if (a.suppression === "none") buttons.push(h("button", { type: "button", "data-focus": "shelve", onclick: () => shelve(a) }, "Shelve…"));
    if (a.suppression === "shelved") buttons.push(h("button", { type: "button", "data-focus": "unshelve", onclick: () => actAlarm(a, "unshelve", { reason: "looked at again" }) }, "Unshelve"));
  }
  if (may("acknowledge and comment alarms")) buttons.push(h("button", { type: "button", "data-focus": "comment", onclick: () => ask("Comment", [["note", "Comment", area()]], (f) => actAlarm(a, "comment", { note: f.note }), "Comment") }, "Comment…"));
  if (a.order_id) buttons.push(h("button", { type: "button", "data-focus": "order", onclick: () => showOrder(a.order_id) }, `WO-${a.order_id}: history…`));
  return [
    h("div", { className: "evidence-head" }, glyph(a.priority), h("div", {}, h("h3", {}, `${kind(a.alarm_type)}, ${where(a)}`), h("p", { className: "soft" }, `Since ${clock(a.occurred_at)}, detected ${clock(a.detected_at)}, ${(ALARM_STATE[a.state] || a.state).toLowerCase()}${a.acked_by ? ` by ${person(a.acked_by)}` : ""}`))),
    h("p", { className: "sentence" }, pretty(e.summary) || "This alarm carries no evidence sentence."),
    a.evidence_stale_since && h("p", { className: "stale" }, "Stale: no data for ", since(a.evidence_stale_since), ". Silence is not recovery; take the alarm as true."),
    Number.isFinite(e.observed) &&
      h(
        "div",
        { className: "compare" },
        h("dl", {}, h("div", {}, h("dt", {}, "Observed"), h("dd", { className: "big" }, num(e.observed), h("small", {}, ` ${unit(e.unit)}`))), h("div", {}, h("dt", {}, "Expected"), h("dd", { className: "big quiet" }, num(e.expected), h("small", {}, ` ${unit(e.unit)}`))), Number.isFinite(e.statistic) && h("div", {}, h("dt", {}, "Detector's score"), h("dd", { className: "big quiet" }, num(e.statistic), h("small", {}, ` speaks at ${num(e.threshold)}`)))),
        gauge(e),
      ),
    candidates.length > 0 &&
      h(
        "div",
        {},
        h("h4", {}, "Most likely place"),
        h("ul", { className: "bars" }, ...candidates.map((c) => h("li", {}, h("span", {}, view.names[c.asset_id] || c.asset_id), h("span", { className: "bar", "aria-hidden": "true" }, h("i", { style: { width: `${Math.round(c.probability * 100)}%` } })), h("span", { className: "n" }, `${Math.round(c.probability * 100)} %`)))),
      ),
    drivers.length > 0 &&
      h(
        "div",
        {},
        h("h4", {}, "What says so"),
        h(
          "table",
          { className: "drivers" },
          h("thead", {}, h("tr", {}, ...["Signal", "Observed", "Expected", "Off by"].map((t) => h("th", { scope: "col" }, t)))),
          h("tbody", {}, ...drivers.map((d) => h("tr", {}, h("th", { scope: "row" }, signal(d.name, view.names)), h("td", {}, `${num(d.observed)} ${unit(d.unit)}`), h("td", {}, num(d.expected)), h("td", {}, d.sigma > 0 ? `${num((d.observed - d.expected) / d.sigma, 2)} σ` : "–")))),
        ),
      ),
    h("p", { className: "soft small" }, a.detector ? `Detector ${a.detector} ${a.detector_version}, ` : "", e.baseline_id ? `baseline ${e.baseline_id}, ` : "", `seen ${a.occurrence}×`),
    buttons.length > 0 && h("p", { className: "buttons" }, ...buttons),
  ];
}

const REPORT = [["find_code", "Found"], ["asset_id", "Where"], ["problem", "Problem"], ["cause", "Cause"], ["remedy", "Done"], ["note", "Note"]];
const HISTORY_HEAD = ["When", "What", "Who", "Why"];

/** Reports that came too late to be taken as they were: read them, then note that they are settled. */
async function showReviews() {
  let list;
  try {
    list = await call("/api/reviews");
  } catch (error) {
    note(error.message, true);
    return;
  }
  const settle = async (r) => {
    try {
      await call(`/api/reviews/${r.review_id}/resolve`, { body: {} });
    } catch (error) {
      note(error.message, true);
      return;
    }
    refresh();
    if (list.length > 1) showReviews();
    else $("dialog").close();
  };
  const said = (r) => REPORT.filter(([key]) => r.body[key]).map(([key, label]) => `${label}: ${key === "asset_id" ? view.names[r.body[key]] || r.body[key] : r.body[key]}`);
  openDialog(
    "Conflicting reports",
    h(
      "div",
      { "data-testid": "reviews" },
      h("p", { className: "soft" }, "Nothing was changed by them. Set right what has to be, then mark them as settled."),
      h(
        "ul",
        { className: "cards" },
        ...list.map((r) =>
          h(
            "li",
            { className: "review" },
            h("p", {}, h("strong", {}, `WO-${r.order_id}: ${ORDER_EVENT[r.event] || words(r.event)}`), ` by ${person(r.actor)}, ${clock(r.at)}`),
            h("p", { className: "soft" }, r.problem),
            said(r).length > 0 && h("p", {}, said(r).join("; ")),
            h(
              "p",
              { className: "buttons" },
              h("button", { type: "button", onclick: () => showOrder(r.order_id) }, `WO-${r.order_id}: history…`),
              may("approve, assign and cancel orders") && h("button", { type: "button", className: "main", "data-testid": "settle", onclick: () => settle(r) }, "Settled"),
            ),
          ),
        ),
      ),
    ),
    true,
  );
}

/** Planned work: while it runs its zone is not watched for leaks, so everybody sees it and few may tell of it. */
async function showPlanned() {
  let operations;
  try {
    ({ operations } = await call("/api/operations?days=7"));
  } catch (error) {
    note(error.message, true);
    return;
  }
  const allowed = may("tell of planned work");
  const again = async (sent) => (await sent) && (showPlanned(), false); // the list takes the place of the form
  const callOff = (o) => ask("Call off planned work", [["reason", "Why", area()]], (f) => again(act(`/api/operations/${o.operation_id}/withdraw`, { reason: f.reason }, "Called off")), "Call off");
  const tell = () => ask("Tell of planned work", plannedFields(view.zones, now(), view.times.zone, select, area), (f) => again(act("/api/operations", plannedBody(f, view.times.zone), "Told")), "Tell");
  openDialog(
    "Planned work",
    h(
      "div",
      { "data-testid": "planned" },
      h("p", { className: "soft" }, "From its begin to an hour after its end, what the zone measures is no sign of a leak."),
      plannedList(operations, { now: now(), clock, names: view.names, person, callOff: allowed ? callOff : null }),
      allowed && h("p", { className: "buttons" }, h("button", { type: "button", className: "main", "data-testid": "tell-planned", onclick: tell }, "Tell of planned work…")),
    ),
    true,
  );
}

function plannedButton() {
  const running = view.planned.filter((o) => phaseOf(o, now()) === "running").length;
  once($("planned"), running, () => [h("button", { type: "button", className: "small", "data-focus": "planned", "data-testid": "show-planned", onclick: showPlanned }, running ? `Planned work: ${running} running…` : "Planned work…")]);
}

async function showOrder(id) {
  let d;
  try {
    d = await call(`/api/orders/${id}`);
  } catch (error) {
    note(error.message, true);
    return;
  }
  const o = d.order;
  const latest = d.assignments[d.assignments.length - 1];
  const history = h(
    "table",
    { className: "history", "data-testid": "history" },
    h("thead", {}, h("tr", {}, ...HISTORY_HEAD.map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, ...d.events.map((e) => h("tr", {}, h("td", {}, clock(e.at)), h("td", {}, e.from_state === e.to_state ? words(e.event) : `${ORDER_STATE[e.from_state] || e.from_state || "–"} → ${ORDER_STATE[e.to_state] || e.to_state}`), h("td", {}, person(e.actor)), h("td", {}, words(e.reason), e.note && h("div", { className: "soft" }, e.note))))),
  );
  const clocks = o.clocks.map((c) => h("li", { className: c.state === "BREACHED" ? "late" : "" }, h("b", {}, CLOCK[c.name] || words(c.name)), ` ${words(c.state)}`, c.met_at ? ` at ${clock(c.met_at)} (due ${clock(c.due_at)})` : `, due ${clock(c.due_at)}`));
  const signals = (o.plan.signals || []).map((x) => h("li", {}, `${signal(x.name, view.names)} must come within ${num(x.threshold)} ${unit(x.unit)} of what is expected; it was ${num(Math.abs(x.excess))} ${unit(x.unit)} off`));
  openDialog(
    `${o.label} ${o.title}`,
    h(
      "div",
      { className: "order-detail", "data-testid": "order-detail" },
      h("p", { className: "order-line" }, glyph(o.priority), stepper(o), h("span", { className: "order-state" }, h("b", {}, ORDER_STATE[o.state] || o.state), o.since_at && ` since ${clock(o.since_at)}`, `, ${o.crew_name || "no crew"}`)),
      view.me.demo && o.crew_id && h("p", {}, h("a", { href: `/demo/crew/${encodeURIComponent(o.crew_id)}`, target: "_blank" }, `Look at the phone of ${o.crew_name} (demo)`)),
      verification(o),
      d.allowed.length > 0 && h("p", { className: "buttons" }, ...d.allowed.filter((e) => e !== "done" && e !== "receipt").map((e) => h("button", { type: "button", onclick: () => orderForm(o, e) }, `${ORDER_EVENT[e] || words(e)}${["approve", "accept", "depart", "arrive", "resume"].includes(e) ? "" : "…"}`))),
      d.reviews.some((r) => !r.resolved_at) && h("p", { className: "late" }, "Waiting for a decision: ", d.reviews.filter((r) => !r.resolved_at).map((r) => `${words(r.event)} by ${person(r.actor)}, ${r.problem}`).join("; ")),
      latest && h("div", {}, h("h3", {}, "Why this crew"), h("p", {}, latest.detail.sentence || `${latest.crew_name}: ${words(latest.reason)}`), h("ul", { className: "plain-list soft" }, ...(latest.detail.ranking || []).map((r) => h("li", {}, `${r.name}: ${r.explanation || words(r.reason)}`)))),
      clocks.length > 0 && h("div", {}, h("h3", {}, "Clocks"), h("ul", { className: "plain-list" }, ...clocks)),
      signals.length > 0 && h("div", {}, h("h3", {}, "What decides that it is repaired"), h("ul", { className: "plain-list" }, ...signals)),
      o.report.find_code && h("div", {}, h("h3", {}, "What the crew found"), h("ul", { className: "plain-list" }, ...REPORT.filter(([key]) => o.report[key]).map(([key, label]) => h("li", {}, `${label}: `, h("b", {}, key === "asset_id" ? view.names[o.report[key]] || o.report[key] : ["note", "problem"].includes(key) ? o.report[key] : words(o.report[key])))))),
      h("h3", {}, "History"),
      history,
    ),
    true,
  );
  history_hash(`order-${id}`);
}

function history_hash(mark) {
  if (location.hash !== `#${mark}`) history.replaceState(null, "", mark ? `#${mark}` : location.pathname);
}

// --- chart -----------------------------------------------------------------------------------------------------------------------

function chartChoices() {
  const alarm = view.data.alarms.find((a) => a.alarm_id === view.selected);
  const pairs = Object.entries(view.zones).map(([id, name]) => [`zone:${id}`, `Inflow of ${name}`]);
  const watched = new Map();
  for (const a of view.data.alarms) if (!a.asset_id.startsWith("dma:")) watched.set(a.asset_id, a.asset_name);
  for (const [id, name] of watched) pairs.push([`asset:${id}`, name]);
  if (alarm && view.followed) view.signal = alarm.asset_id.startsWith("dma:") || !watched.has(alarm.asset_id) ? `zone:${alarm.zone_id}` : `asset:${alarm.asset_id}`;
  if (!pairs.some(([v]) => v === view.signal)) view.signal = pairs[0]?.[0] ?? null;
  const el = $("chart-signal");
  once(el, pairs, () => pairs.map(([value, text]) => h("option", { value }, text)));
  if (el.value !== view.signal && view.signal) el.value = view.signal;
}

let chartAsk = 0;
async function drawChart() {
  if (!view.signal) return;
  const [scope, id] = [view.signal.slice(0, view.signal.indexOf(":")), view.signal.slice(view.signal.indexOf(":") + 1)];
  const ask = ++chartAsk;
  let found = null;
  let until = now();
  try {
    if (scope === "zone") {
      const answer = await call(`/api/zones/${encodeURIComponent(id)}/series?hours=${view.hours}`);
      found = answer.inflow[0];
      until = Date.parse(answer.until_at);
    } else {
      const answer = await call(`/api/assets/${encodeURIComponent(id)}/series?hours=${view.hours}`);
      found = answer.series[0];
      until = Date.parse(answer.until_at);
    }
  } catch (error) {
    if (!(error instanceof ApiError)) return;
  }
  if (ask !== chartAsk) return;
  const about = view.data.alarms.filter((a) => (scope === "zone" ? a.zone_id === id && a.asset_id.startsWith("dma:") : a.asset_id === id));
  const marks = about.flatMap((a) => [
    { at: a.occurred_at, label: "began", priority: a.priority },
    { at: a.detected_at, label: "detected" },
  ]);
  for (const o of view.data.orders.filter((x) => about.some((a) => a.incident_id === x.incident_id))) {
    const done = view.data.events.find((e) => e.subject === "order" && e.subject_id === o.order_id && e.to_state === "DONE");
    if (done) marks.push({ at: done.at, label: "reported done" });
  }
  const alert = about.find((a) => a.condition !== "normal")?.priority || null;
  $("chart-title").textContent = found ? `${scope === "zone" ? `Inflow of ${view.zones[id] || id}` : signal(found.signal, view.names)}, ${unit(found.unit)}` : `Nothing expected of ${view.zones[id] || view.names[id] || id} yet`;
  chart.show(found, { from: until - view.hours * 3.6e6, to: until, marks, alert });
}

// --- all of it -----------------------------------------------------------------------------------------------------------------

function pick(id) {
  view.selected = id;
  view.followed = true;
  const a = view.data.alarms.find((x) => x.alarm_id === id);
  view.zone = a?.zone_id ?? view.zone;
  render();
  drawChart();
}

function pickZone(id) {
  view.zone = id;
  view.signal = `zone:${id}`;
  view.followed = false;
  const a = view.data.alarms.find((x) => x.zone_id === id && !QUIET(x));
  if (a) view.selected = a.alarm_id;
  render();
  drawChart();
}

function overlay() {
  const zones = {};
  const assets = {};
  const candidates = [];
  const silent = new Set();
  for (const a of [...view.data.alarms].reverse()) {
    if (["comms.lost", "meter.stuck", "quality.sensor"].includes(a.alarm_type)) {
      silent.add(a.asset_id);
      if (!String(a.asset_id).startsWith("dma:")) continue;
    }
    if (a.condition === "normal") continue;
    if (a.suppression === "shelved" || a.suppression === "out_of_service") continue;
    const tone = a.suppression === "by_design" ? "working" : a.priority;
    if (String(a.asset_id).startsWith("dma:") && a.zone_id) zones[a.zone_id] = tone;
    else assets[a.asset_id] = { priority: a.suppression === "by_design" ? "journal" : a.priority, type: a.alarm_type };
    if (a.condition !== "normal") for (const c of a.evidence.candidates || []) candidates.push({ ...c, priority: tone });
  }
  const chosen = view.data.alarms.find((a) => a.alarm_id === view.selected);
  const shown = chosen?.condition !== "normal" && chosen?.evidence.candidates?.length ? chosen.evidence.candidates.map((c) => ({ ...c, priority: chosen.suppression === "by_design" ? "working" : chosen.priority })) : candidates;
  const crews = view.data.crews
    .filter((c) => c.on_shift || c.order_id)
    .map((c) => {
      // on site: where the work is, which is newer than the last position that was reported
      const there = ["IN_PROGRESS", "WAITING"].includes(c.order_state) && view.data.orders.find((o) => o.order_id === c.order_id)?.location.point;
      return there ? { ...c, longitude_deg: there[0], latitude_deg: there[1] } : c;
    })
    .map((c) => ({ name: c.name, longitude_deg: c.longitude_deg, latitude_deg: c.latitude_deg, busy: Boolean(c.order_id), says: c.order_id ? `${c.name}: WO-${c.order_id}, ${(ORDER_STATE[c.order_state] || "").toLowerCase()}` : `${c.name}: free` }));
  map.setOverlay({ zones, assets, candidates: shown.sort((a, b) => b.probability - a.probability), crews, silent, selected: view.zone });
}

function render() {
  const d = view.data;
  const loud = d.alarms.filter((a) => !QUIET(a));
  const quiet = d.alarms.filter(QUIET);
  if (view.selected === null || !d.alarms.some((a) => a.alarm_id === view.selected)) {
    const first = loud.find(NEEDS_PERSON) ?? loud[0] ?? quiet[0];
    view.selected = first?.alarm_id ?? null;
    view.followed = true;
    view.zone = first?.zone_id ?? view.zone;
  }
  $("clock-name").textContent = d.clock.speed === 1 ? "Clock" : "Town clock";
  $("speed").textContent = d.clock.speed === 1 ? "" : d.clock.speed === 0 ? "stands still" : `×${num(d.clock.speed)}`;
  $("lag").textContent = d.lag_s === null ? "no data" : span(d.lag_s);
  $("lag").classList.toggle("late", d.lag_s !== null && d.lag_s > 3600);
  $("rate").textContent = num(d.readings_per_s);
  $("unacked").textContent = d.counts.alarms_unacked;
  $("unacked").className = d.counts.alarms_unacked ? `count ${loud.find(NEEDS_PERSON)?.priority || ""}` : "";
  $("open-orders").textContent = d.counts.orders_open;
  const said = headline();
  once($("headline"), said, () => [said.priority && glyph(said.priority, ""), h("span", {}, said.text)]);
  $("headline-more").textContent = said.more;
  $("headline").parentElement.classList.toggle("calm", said.calm);
  document.title = `${d.counts.alarms_unacked ? `(${d.counts.alarms_unacked}) ` : ""}${view.me.title}`;
  const stamp = (x) => ({ ...x, _me: view.me.may.length, _sel: view.selected === x.alarm_id, _day: view.times.day.format(now()) });
  keyed($("alarm-list"), loud.map(stamp), (a) => a.alarm_id, alarmCard);
  keyed($("quiet-list"), quiet.map(stamp), (a) => a.alarm_id, alarmCard);
  $("alarm-empty").hidden = loud.length > 0;
  $("quiet-title").hidden = quiet.length === 0;
  const orders = d.orders.filter((o, i) => OPEN(o) || i < 8);
  keyed($("order-list"), orders.map((o) => ({ ...o, _day: view.times.day.format(now()) })), (o) => o.order_id, orderCard);
  $("order-empty").hidden = orders.some(OPEN);
  $("reviews").hidden = !d.counts.reviews_open;
  once($("reviews"), d.counts.reviews_open, () => [d.counts.reviews_open > 0 && h("button", { type: "button", "data-testid": "show-reviews", "data-focus": "reviews", onclick: showReviews }, `${d.counts.reviews_open} conflicting ${d.counts.reviews_open === 1 ? "report" : "reports"}: decide…`)]);
  keyed($("feed"), d.events.filter((e) => e.subject !== "incident" || !BETWEEN.includes(e.to_state)), (e) => `${e.subject}${e.subject_id}.${e.seq}`, eventLine);
  $("feed-empty").hidden = d.events.length > 0;
  const chosen = d.alarms.find((a) => a.alarm_id === view.selected);
  once($("evidence"), [chosen, view.me.may.length, Object.keys(view.names).length], () => (chosen ? evidence(chosen) : [h("p", { className: "empty" }, "No alarm is open. Choose a zone on the map to see its inflow.")]));
  plannedButton();
  chartChoices();
  overlay();
  announce(d.alarms.filter(NEEDS_PERSON));
  tick();
}

function announce(loud) {
  const ids = new Set(loud.map((a) => a.alarm_id));
  if (view.known) for (const a of loud) if (!view.known.has(a.alarm_id)) $("announce").textContent = `New alarm: ${PRIORITY[a.priority]?.name}, ${kind(a.alarm_type)} in ${where(a)}`;
  view.known = ids;
}

let reading = null;
async function refresh() {
  if (reading) return reading;
  reading = (async () => {
    try {
      const signal = AbortSignal.timeout(8000);
      const [data, planned] = await Promise.all([call("/api/overview", { signal }), call("/api/operations?days=0", { signal })]);
      view.planned = planned.operations;
      const first = !view.data;
      view.data = data;
      view.read = performance.now();
      if (data.site && view.times.zone !== data.site.timezone) {
        view.times = new Times(data.site.timezone);
        chart.times = view.times;
      }
      found();
      render();
      const stamp = Date.parse(data.clock.now_at);
      if (first || Math.abs(stamp - (view.drawn || 0)) > Math.min(6e5, view.hours * 6e3)) {
        view.drawn = stamp;
        drawChart();
      }
    } catch (error) {
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) location.assign(`/login${location.hash}`);
      else lose(error);
    } finally {
      reading = null;
    }
  })();
  return reading;
}

let lostAt = null;
let lostTimer = null;
function lose() {
  if (lostAt) return;
  lostAt = new Date();
  lostTimer = setTimeout(() => {
    const at = lostAt.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
    $("lost").hidden = false;
    $("lost").textContent = `Connection lost since ${at}. What you see is from then; trying again.`;
    $("live").textContent = "not live";
    $("live").classList.remove("on");
    document.body.classList.add("is-lost");
  }, LOST_AFTER_MS);
}

function found() {
  clearTimeout(lostTimer);
  lostAt = null;
  $("lost").hidden = true;
  $("live").textContent = "live";
  $("live").classList.add("on");
  document.body.classList.remove("is-lost");
}

let pending = null;
function soon() {
  if (pending) return;
  pending = setTimeout(() => {
    pending = null;
    refresh();
  }, Math.max(0, 900 - (performance.now() - view.read)));
}

function listen() {
  const source = new EventSource("/api/events");
  source.addEventListener("changed", (e) => {
    const message = JSON.parse(e.data);
    if (message.store === "unavailable") lose();
    else soon();
  });
  source.onerror = () => {
    lose();
    if (source.readyState === EventSource.CLOSED) {
      source.close();
      setTimeout(listen, 5000); // refused (too many pages, signed out): polling goes on meanwhile
    }
    refresh();
  };
}

async function whoAmI() {
  view.me = await call("/api/me");
  $("title").textContent = view.me.title;
  const demo = view.me.demo && view.me.way === "demo";
  const enter = (role, text) => h("button", { type: "button", className: "small", "data-testid": `demo-${role}`, onclick: async () => { await call("/api/demo-login", { body: { role } }); await whoAmI(); render(); } }, text);
  $("me").textContent = view.me.name;
  $("me-actions").replaceChildren(
    ...(demo && view.me.role !== "supervisor" || view.me.read_only ? [view.me.read_only && enter("operator", "Demo: act as operator"), enter("supervisor", "Demo: act as supervisor")] : []).filter(Boolean),
    ...(view.me.read_only ? [] : [h("button", { type: "button", className: "small", onclick: async () => { await call("/api/logout", { body: {} }); location.reload(); } }, "Sign out")]),
  );
}

async function start() {
  chart = new Chart($("chart"), view.times);
  map = new NetworkMap($("map"), pickZone);
  $("chart-hours").replaceChildren(
    ...HOURS.map((v) => h("button", { type: "button", "aria-pressed": String(v === view.hours), onclick: (e) => { view.hours = v; for (const b of $("chart-hours").children) b.setAttribute("aria-pressed", String(b === e.target)); drawChart(); } }, v >= 168 ? "7 d" : `${v} h`)),
  );
  $("chart-signal").addEventListener("change", (e) => {
    view.signal = e.target.value;
    view.followed = false;
    if (view.signal.startsWith("zone:")) view.zone = view.signal.slice(5);
    render();
    drawChart();
  });
  $("dialog").addEventListener("close", () => history_hash(""));
  $("dialog").addEventListener("click", (e) => e.target === $("dialog") && $("dialog").close());
  try {
    await whoAmI();
  } catch {
    location.assign(`/login${location.hash}`);
    return;
  }
  const [net] = await Promise.all([call("/api/network"), refresh()]);
  view.names = Object.fromEntries([...net.assets.map((a) => [a.id, a.name]), ...net.zones.map((z) => [z.id, z.name])]);
  view.zones = Object.fromEntries(net.zones.filter((z) => z.kind === "dma").map((z) => [z.id, z.name]));
  if (net.assets.length) map.setNetwork(net);
  else $("map").replaceChildren(h("p", { className: "empty" }, "No network is registered yet."));
  render();
  drawChart();
  listen();
  setInterval(tick, 500);
  setInterval(() => (performance.now() - view.read > POLL_MS || lostAt) && refresh(), POLL_MS / 2);
  const linked = location.hash.match(/^#order-(\d+)$/);
  if (linked) showOrder(Number(linked[1]));
}

start();
