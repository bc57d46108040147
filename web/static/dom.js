// Build elements without HTML strings: text is always text.

const SVG = "http://www.w3.org/2000/svg";

function fill(el, props, children) {
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, v] of Object.entries(value)) el.style.setProperty(name, v);
    else if (key in el && !key.includes("-") && !(el instanceof SVGElement) && key !== "list") el[key] = value;
    else el.setAttribute(key === "className" ? "class" : key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    el.append(child instanceof Node ? child : String(child));
  }
  return el;
}

export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);
export const $ = (id) => document.getElementById(id);

/** Keep a list of keyed children up to date; an unchanged item keeps its element, a changed one keeps the focus inside it. */
export function keyed(parent, items, key, make) {
  const known = parent._known || (parent._known = new Map());
  const seen = new Set();
  let before = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    const mark = JSON.stringify(item);
    seen.add(id);
    let entry = known.get(id);
    if (!entry || entry.mark !== mark) {
      const el = make(item);
      if (entry) {
        const focus = entry.el.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
        if (before === entry.el) before = el;
        entry.el.replaceWith(el);
        if (focus) (el.matches(`[data-focus="${focus}"]`) ? el : el.querySelector(`[data-focus="${focus}"]`) || el).focus({ preventScroll: true });
      }
      entry = { el, mark };
      known.set(id, entry);
    }
    if (entry.el !== before) parent.insertBefore(entry.el, before);
    else before = before.nextElementSibling;
  }
  for (const [id, entry] of known) {
    if (!seen.has(id)) {
      entry.el.remove();
      known.delete(id);
    }
  }
}

export function once(el, value, make) {
  const mark = JSON.stringify(value);
  if (el._mark === mark) return;
  el._mark = mark;
  const focus = el.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  el.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
  if (focus) el.querySelector(`[data-focus="${focus}"]`)?.focus({ preventScroll: true });
}

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.error?.message || `the server answered ${status}`);
    this.status = status;
    this.code = body?.error?.code || "error";
    this.allowed = body?.error?.allowed || [];
    this.unmet = body?.error?.unmet || [];
  }
}

export async function call(path, { body, token, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    headers["X-Underway"] = "1";
  }
  const answer = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
    signal,
  });
  const data = answer.headers.get("content-type")?.includes("json") ? await answer.json() : null;
  if (!answer.ok) throw new ApiError(answer.status, data);
  return data;
}

/** A random UUID; crypto.randomUUID is only there on secure origins. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6] & 15) | 64;
  b[8] = (b[8] & 63) | 128;
  const x = [...b].map((v) => v.toString(16).padStart(2, "0")).join("");
  return `${x.slice(0, 8)}-${x.slice(8, 12)}-${x.slice(12, 16)}-${x.slice(16, 20)}-${x.slice(20)}`;
}
