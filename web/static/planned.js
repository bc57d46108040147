// Planned work in the network: what runs and comes, telling of it, calling it off.
import { h } from "./dom.js";

export const OPERATION = {
  flushing: "Flushing",
  permit: "Permit",
  fire_fighting: "Fire fighting",
  valve: "Valve operation",
  hydrant_test: "Hydrant test",
};

const MINUTE_MS = 60000;

/** What a clock on a wall of that time zone shows, as an input of date and time wants it. */
export function wallTime(ms, zone) {
  const parts = new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit" }).formatToParts(new Date(ms));
  const p = Object.fromEntries(parts.map((x) => [x.type, x.value]));
  return `${p.year}-${p.month}-${p.day}T${p.hour}:${p.minute}`;
}

/** The instant at which a clock on a wall of that time zone shows this; looked for twice, for the offset may differ where the first guess lies. */
export function instantOf(wall, zone) {
  const wanted = Date.parse(`${wall}:00Z`);
  let ms = wanted;
  for (let i = 0; i < 2; i += 1) ms += wanted - Date.parse(`${wallTime(ms, zone)}:00Z`);
  return ms;
}

export function phaseOf(o, now) {
  if (o.withdrawn_at) return "called off";
  if (now < Date.parse(o.begin_at)) return "coming";
  return now < Date.parse(o.end_at) ? "running" : "over";
}

const place = (o, names) => (o.asset_id ? `${names[o.asset_id] || o.asset_id}, ${names[o.zone_id] || o.zone_id}` : names[o.zone_id] || o.zone_id);

/** A list of planned work; `callOff` is null for who may not. */
export function plannedList(operations, { now, clock, names, person, callOff }) {
  if (!operations.length) return h("p", { className: "empty" }, "Nobody has told of planned work.");
  return h(
    "ul",
    { className: "cards", "data-testid": "planned-list" },
    ...operations.map((o) => {
      const phase = phaseOf(o, now);
      return h(
        "li",
        { className: "review" },
        h("p", {}, h("strong", {}, `${OPERATION[o.kind] || o.kind}, ${place(o, names)}`), ` ${phase}`),
        h("p", {}, `${clock(o.begin_at)} to ${clock(o.end_at)}`, o.flow_m3ph ? `, about ${o.flow_m3ph} m³/h` : "", `. ${o.reason}`),
        h("p", { className: "soft" }, `Told by ${person(o.actor)}, ${clock(o.recorded_at)}`, o.withdrawn_at ? `; called off by ${person(o.withdrawn_by)}: ${o.withdrawn_reason}` : ""),
        callOff && (phase === "coming" || phase === "running") && h("p", { className: "buttons" }, h("button", { type: "button", "aria-label": `Call off: ${OPERATION[o.kind] || o.kind}, ${place(o, names)}`, onclick: () => callOff(o) }, "Call off…")),
      );
    }),
  );
}

/** Fields of the form by which planned work is told, for `ask`; times are those of the town. */
export function plannedFields(zones, now, zone, select, area) {
  const at = (ms) => h("input", { type: "datetime-local", required: true, value: wallTime(ms, zone) });
  return [
    ["kind", "What", select(Object.entries(OPERATION))],
    ["zone_id", "Where", select(Object.entries(zones))],
    ["begin_at", `From (${zone})`, at(now)],
    ["end_at", "Until", at(now + 120 * MINUTE_MS)],
    ["flow_m3ph", "Drawn, m³/h, if known", h("input", { type: "number", min: 0, step: "any", inputMode: "decimal" })],
    ["reason", "Why: permit or order, what is done", area()],
  ];
}

/** What the form said, as the API wants it. */
export function plannedBody(f, zone) {
  const body = { kind: f.kind, zone_id: f.zone_id, reason: f.reason, begin_at: new Date(instantOf(f.begin_at, zone)).toISOString(), end_at: new Date(instantOf(f.end_at, zone)).toISOString() };
  return f.flow_m3ph === "" ? body : { ...body, flow_m3ph: Number(f.flow_m3ph) };
}
