// What states, kinds and reasons are called on the pages, and how times and numbers are said.

export const KIND = {
  "leak.burst": "Burst leak",
  "leak.background": "Background leak",
  "pressure.low": "Low pressure",
  "meter.stuck": "Sensor stuck",
  "meter.stopped": "Meter stopped",
  "meter.tamper": "Meter tampered with?",
  "meter.backward": "Meter backwards",
  "backflow": "Backflow through a meter",
  "meter.oversized": "Meter too large",
  "meter.undersized": "Meter too small",
  "comms.lost": "Sensor silent",
  "road.roughness": "Rough road surface",
  "road.flood": "Drain flooding",
  "bridge.frequency_shift": "Bridge stiffness change",
  "quality.event": "Water quality event",
  "quality.sensor": "Quality sensor off",
  "quality.operation": "Known operation",
  "tank.overflow": "Tank overflow",
  "tank.low": "Tank low",
  "tank.balance": "Tank balance open",
  "pump.efficiency": "Pump efficiency loss",
  "prv.fault": "Pressure reducing valve fault",
};

export const PRIORITY = {
  urgent: { letter: "U", name: "Urgent" },
  high: { letter: "H", name: "High" },
  medium: { letter: "M", name: "Medium" },
  low: { letter: "L", name: "Low" },
  journal: { letter: "J", name: "Journal" },
};

export const ALARM_STATE = {
  UNACK: "Active, not acknowledged",
  ACKED: "Active, acknowledged",
  RTNUN: "Back to normal, not acknowledged",
  NORM: "Normal",
  SHLVD: "Shelved",
  DSUPR: "Suppressed while work is going on",
  OOSRV: "Out of service",
};

export const ORDER_STATE = {
  NEW: "New",
  APPROVED: "Approved",
  SCHEDULED: "Scheduled",
  DISPATCHED: "Sent to crew",
  ACCEPTED: "Accepted",
  EN_ROUTE: "Driving there",
  IN_PROGRESS: "On site",
  WAITING: "Waiting",
  DONE: "Reported done",
  VERIFYING: "Verifying",
  CLOSED: "Closed",
  CANCELLED: "Cancelled",
};

export const STEPS = ["NEW", "DISPATCHED", "ACCEPTED", "EN_ROUTE", "IN_PROGRESS", "VERIFYING", "CLOSED"];
export const STEP_OF = { APPROVED: 0, SCHEDULED: 0, WAITING: 4, DONE: 4, CANCELLED: 6 };

export const ORDER_EVENT = {
  receipt: "Confirm receipt",
  accept: "Accept",
  decline: "Decline",
  depart: "Driving there",
  arrive: "On site",
  pause: "Pause",
  resume: "Resume",
  done: "Done",
  comment: "Comment",
  approve: "Approve",
  assign: "Assign crew",
  reschedule: "Take back",
  unschedule: "Unschedule",
  cancel: "Cancel order",
  reject: "Send back",
  sign_off: "Sign off",
  waive: "Waive verification",
};

export const CLOCK = { ack: "Acknowledge", on_site: "On site", stopped: "Stopped", restored: "Restored", closed: "Closed" };

export const words = (code) => String(code || "").replaceAll("_", " ").toLowerCase();

export const kind = (type) => KIND[type] || words(String(type).replaceAll(".", " "));

/** 35 s, 42 min, 1 h 20 min, 3 d 4 h */
export function span(seconds) {
  const t = Math.max(0, Math.round(seconds));
  if (t < 60) return `${t} s`;
  const min = Math.floor(t / 60);
  if (min < 60) return `${min} min`;
  const hours = Math.floor(min / 60);
  if (hours < 48) return min % 60 ? `${hours} h ${min % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const numbers = new Map();
/** A number with as many digits as are worth reading. */
export function num(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const whole = Math.abs(value) >= 10 ** (digits - 1);
  const id = whole ? "w" : digits;
  if (!numbers.has(id)) numbers.set(id, new Intl.NumberFormat("en", whole ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits }));
  return numbers.get(id).format(value);
}

export const unit = (code) => ({ "m3/h": "m³/h", Cel: "°C", ue: "µε" })[code] || code || "";

/** Units in a sentence as people write them. */
export const pretty = (text) => String(text || "").replaceAll(" -> ", " → ").replaceAll("m3/h", "m³/h").replaceAll("m3", "m³");

/** "zone/z1/inflow" -> "Inflow", "asset/j-1/pressure" -> "Pressure at Junction 1" */
export function signal(name, names = {}) {
  const [scope, id, what] = String(name).split("/");
  if (!what) return String(name);
  const said = what.charAt(0).toUpperCase() + what.slice(1).replaceAll("_", " ");
  return scope === "zone" ? `${said} of ${names[id] || id}` : `${said} at ${names[id] || id}`;
}

/** How far a verification has come, 0 to 1: the residual that fell, the minutes of good data, the night where one is needed. */
export function verified(order) {
  const v = order.verification || {};
  const plan = order.plan || {};
  const [was, is, need] = [Math.abs(v.excess), Math.abs(v.residual), Math.abs(v.threshold)];
  if (![was, is, need].every(Number.isFinite)) return null;
  const clamp = (x) => Math.max(0, Math.min(1, x));
  const parts = [clamp(was > need ? (was - is) / (was - need) : 1)];
  if (plan.evidence_min > 0 && Number.isFinite(v.evidence_min)) parts.push(clamp(v.evidence_min / plan.evidence_min));
  if (plan.test === "burst" && plan.night) parts.push(Number.isFinite(v.night_residual) ? 0.8 : 0);
  return parts.reduce((sum, x) => sum + x, 0) / parts.length;
}

export class Times {
  constructor(zone) {
    const make = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options });
    try {
      this.hm = make({ hour: "2-digit", minute: "2-digit" });
    } catch {
      zone = "UTC";
      this.hm = make({ hour: "2-digit", minute: "2-digit" });
    }
    this.zone = zone;
    this.day = make({ weekday: "short", day: "numeric", month: "short" });
    this.full = make({ weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
    this.parts = make({ hour: "numeric", minute: "numeric" });
  }
  /** 03:05, with the day when it is not today */
  at(when, now) {
    const date = new Date(when);
    if (now !== undefined && this.day.format(date) !== this.day.format(new Date(now))) return `${this.day.format(date)} ${this.hm.format(date)}`;
    return this.hm.format(date);
  }
  hour(ms) {
    const p = Object.fromEntries(this.parts.formatToParts(new Date(ms)).map((x) => [x.type, x.value]));
    return Number(p.hour) + Number(p.minute) / 60;
  }
}
