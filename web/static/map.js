// The network as a quiet drawing: grey mains beside light roads; colour only where something is wrong.
import { h, s } from "./dom.js";
import { PRIORITY, kind } from "./words.js";

const SHAPE = {
  urgent: "M-4.6-10h9.2L10-4.6v9.2L4.6 10h-9.2L-10 4.6v-9.2z",
  high: "M0-10.5 10.5 9h-21z",
  medium: "M-9-9H9V9H-9z",
  low: "M0-9a9 9 0 1 0 .01 0z",
  journal: "M0-7a7 7 0 1 0 .01 0z",
};

/** The mark of a priority: its own shape and its own letter, so that colour is never alone. */
export function glyph(priority, label) {
  const p = PRIORITY[priority] || PRIORITY.journal;
  return s(
    "svg",
    { className: `glyph ${priority}`, viewBox: "-12 -12 24 24", role: label === "" ? "presentation" : "img", "aria-label": label === "" ? null : label || p.name },
    s("path", { d: SHAPE[priority] || SHAPE.journal }),
    s("text", { y: priority === "high" ? 6.5 : 4.2, "text-anchor": "middle" }, p.letter),
  );
}

function hull(points) {
  const p = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (list) => {
    const out = [];
    for (const q of list) {
      while (out.length > 1) {
        const [a, b] = out.slice(-2);
        if ((b[0] - a[0]) * (q[1] - a[1]) - (b[1] - a[1]) * (q[0] - a[0]) > 0) break;
        out.pop();
      }
      out.push(q);
    }
    return out.slice(0, -1);
  };
  return p.length < 3 ? p : [...half(p), ...half(p.reverse())];
}

const tone = (priority) => (priority === "working" ? "being worked on" : `${PRIORITY[priority]?.name.toLowerCase()} alarm`);

const line = (points) => `M${points.map((p) => `${p[0].toFixed(1)} ${p[1].toFixed(1)}`).join("L")}`;

export class NetworkMap {
  /** `onzone(id)` is called when a person picks a zone. */
  constructor(box, onzone) {
    this.box = box;
    this.onzone = onzone;
    this.svg = s("svg", { className: "map", role: "group", "aria-label": "Map of the network" });
    const button = (label, text, act) => h("button", { type: "button", className: "plain", "aria-label": label, title: label, onclick: act }, text);
    this.legend = h(
      "div",
      { className: "legend", "aria-hidden": "true" },
      ...[
        ["main", "main"],
        ["road", "road"],
        ["sensor", "sensor"],
        ["tank", "tank"],
        ["crew", "crew"],
      ].map(([name, text]) => h("span", {}, h("i", { className: `key ${name}` }), text)),
    );
    box.replaceChildren(
      h("div", { className: "map-area" }, this.svg),
      h("div", { className: "map-buttons" }, button("Zoom in", "+", () => this.zoom(0.7)), button("Zoom out", "−", () => this.zoom(1 / 0.7)), button("Show everything", "⤢", () => this.fit())),
      this.legend,
    );
    this.overlay = { zones: {}, candidates: [], assets: {}, crews: [], silent: new Set() };
    new ResizeObserver(() => this.view && this.apply()).observe(box);
    this.pointers();
  }

  setNetwork(net) {
    this.net = net;
    const all = [];
    const collect = (g, depth) => {
      if (depth === 0) all.push(g);
      else for (const part of g) collect(part, depth - 1);
    };
    const DEPTH = { Point: 0, LineString: 1, Polygon: 2, MultiPolygon: 3 };
    for (const a of net.assets) collect(a.g, DEPTH[a.t] ?? 1);
    for (const d of net.devices) collect(d.g, DEPTH[d.t] ?? 0);
    if (!all.length) return;
    const lon0 = all.reduce((sum, p) => sum + p[0], 0) / all.length;
    const lat0 = all.reduce((sum, p) => sum + p[1], 0) / all.length;
    const kx = 111320 * Math.cos((lat0 * Math.PI) / 180);
    this.xy = (p) => [(p[0] - lon0) * kx, -(p[1] - lat0) * 111320];
    const flat = all.map(this.xy);
    const xs = flat.map((p) => p[0]);
    const ys = flat.map((p) => p[1]);
    this.extent = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    this.assets = new Map(net.assets.map((a) => [a.id, a]));
    this.zones = net.zones.map((z) => {
      const inside = net.assets.filter((a) => a.zone === z.id && a.class === "pipe");
      const points = inside.flatMap((a) => a.g).map(this.xy);
      let rings = [];
      if (z.geometry?.type === "Polygon") rings = z.geometry.coordinates.map((r) => r.map(this.xy));
      else if (z.geometry?.type === "MultiPolygon") rings = z.geometry.coordinates.flat().map((r) => r.map(this.xy));
      else if (points.length > 2) rings = [hull(points)];
      const base = points.length ? points : rings.flat();
      const centre = base.length ? [base.reduce((t, p) => t + p[0], 0) / base.length, base.reduce((t, p) => t + p[1], 0) / base.length] : null;
      return { ...z, rings, centre, top: base.length ? Math.min(...base.map((p) => p[1])) : 0, bottom: base.length ? Math.max(...base.map((p) => p[1])) : 0 };
    });
    this.drawBase();
    this.fit();
  }

  drawBase() {
    const lines = (filter) => this.net.assets.filter((a) => a.t === "LineString" && filter(a)).map((a) => line(a.g.map(this.xy))).join("");
    const big = (a) => (a.d || 0) >= 250;
    this.layers = Object.fromEntries(["zones", "hot", "signs", "labels"].map((name) => [name, s("g", { className: name })]));
    this.svg.replaceChildren(
      this.layers.zones,
      s("path", { className: "road", d: lines((a) => a.class === "road_section") }),
      s("path", { className: "road-line", d: lines((a) => a.class === "road_section") }),
      s("path", { className: "main", d: lines((a) => a.class === "pipe" && !big(a)) }),
      s("path", { className: "main big", d: lines((a) => a.class === "pipe" && big(a)) }),
      this.layers.hot,
      this.layers.signs,
      this.layers.labels,
    );
  }

  /** zones: {id: priority}, assets: {id: {priority, label}}, candidates: [{asset_id, probability, priority}], crews, silent: Set of device ids */
  setOverlay(overlay) {
    const mark = JSON.stringify([overlay.zones, overlay.assets, overlay.candidates, overlay.crews, [...overlay.silent], overlay.selected]);
    if (!this.net || mark === this.mark) return;
    this.mark = mark;
    this.overlay = overlay;
    const far = JSON.stringify(overlay.crews.map((c) => [c.longitude_deg.toFixed(2), c.latitude_deg.toFixed(2)]));
    if (this.untouched && far !== this.far) {
      this.far = far;
      this.fit();
    }
    this.paint();
  }

  place(x, y, ...content) {
    return s("g", { className: "at", "data-x": x, "data-y": y }, ...content);
  }

  middle(asset) {
    if (asset.t === "Point") return this.xy(asset.g);
    const points = (asset.t === "Polygon" ? asset.g[0] : asset.g).map(this.xy);
    if (points.length < 3) return [(points[0][0] + points[points.length - 1][0]) / 2, (points[0][1] + points[points.length - 1][1]) / 2];
    return points[Math.floor(points.length / 2)];
  }

  paint() {
    const { zones, assets, candidates, crews, silent, selected } = this.overlay;
    this.layers.zones.replaceChildren(
      ...this.zones.map((z) =>
        s(
          "path",
          {
            className: `zone ${zones[z.id] || ""} ${selected === z.id ? "selected" : ""}`,
            d: z.rings.map((r) => `${line(r)}Z`).join(""),
            onclick: () => this.moved || this.onzone(z.id),
          },
          s("title", {}, zones[z.id] ? `${z.name}: ${tone(zones[z.id])}` : z.name),
        ),
      ),
    );
    const hot = [];
    const labels = [];
    const best = Math.max(0.01, ...candidates.map((c) => c.probability));
    for (const c of [...candidates].reverse()) {
      const asset = this.assets.get(c.asset_id);
      if (!asset) continue;
      const share = c.probability / best;
      if (asset.t === "LineString") {
        hot.push(
          s(
            "path",
            { className: `candidate ${c.priority}`, d: line(asset.g.map(this.xy)), style: { "stroke-opacity": (0.25 + 0.75 * share).toFixed(2), "stroke-width": `${(3 + 4 * share).toFixed(1)}px` }, "data-testid": "candidate" },
            s("title", {}, `${asset.name}: ${Math.round(c.probability * 100)} % likely`),
          ),
        );
      }
    }
    this.tags = [];
    /** A label that gives way: it takes the first of its spots that is free, and hides when none is. */
    const tag = (rank, spots, w, t, content) => {
      const el = s("g", {}, content);
      this.tags.push({ el, rank, spots, w, t });
      return el;
    };
    const likely = candidates.map((c) => ({ ...c, asset: this.assets.get(c.asset_id) })).filter((c) => c.asset);
    if (likely[0]) labels.push(this.place(...this.middle(likely[0].asset), s("circle", { className: `locator ${likely[0].priority}`, r: 15 })));
    likely.slice(0, 3).forEach((c, i) => {
      if (c.probability < 0.05) return;
      const [x, y] = this.middle(c.asset);
      const text = `${Math.round(c.probability * 100)} %`;
      const chip = s("g", { className: "chip" }, s("rect", { x: -19, y: -9, width: 38, height: 18, rx: 9 }), s("text", { y: 4, "text-anchor": "middle" }, text));
      labels.push(tag(i, [[x, y, 0, -27], [x, y, 36, 0], [x, y, -36, 0], [x, y, 0, 27]], 38, 18, chip));
    });
    this.layers.hot.replaceChildren(...hot);
    const signs = [];
    for (const a of this.net.assets) {
      const sign = { tank: "M-8-6h16v10a8 4 0 0 1-16 0z", reservoir: "M-9-5h18l-4 10h-10z", bridge: "M-11-3H11M-11 3H11M-11-6v3M11-6v3M-11 3v3M11 3v3", culvert: "M-8 5v-3a8 8 0 0 1 16 0v3", pump: "M0-7a7 7 0 1 0 .01 0zM-3-4 4 0-3 4z" }[a.class];
      if (!sign) continue;
      signs.push(this.place(...this.middle(a), s("g", { className: `sign ${a.class}` }, s("path", { d: sign }), s("title", {}, a.name))));
    }
    for (const d of this.net.devices) {
      const quiet = silent.has(d.id) || silent.has(d.asset);
      const [x, y] = this.middle(d);
      const road = d.roles.some((r) => /road|rough|bridge|drain|rain/.test(r));
      signs.push(
        this.place(x, y, s("g", { className: `sensor ${quiet ? "silent" : ""}` }, road ? s("path", { d: "M-3.4-3.4h6.8v6.8h-6.8z" }) : s("circle", { r: 3.6 }), s("title", {}, `${d.id}${quiet ? ", not trusted now" : ""}`))),
      );
    }
    for (const [id, what] of Object.entries(assets)) {
      const asset = this.assets.get(id);
      if (!asset) continue;
      const mark = glyph(what.priority, "");
      mark.setAttribute("x", -9);
      mark.setAttribute("y", -30);
      mark.setAttribute("width", 18);
      mark.setAttribute("height", 18);
      labels.push(this.place(...this.middle(asset), s("g", {}, mark, s("title", {}, `${kind(what.type)}: ${asset.name}`))));
    }
    for (const c of crews) {
      const [x, y] = this.xy([c.longitude_deg, c.latitude_deg]);
      const van = s("g", { className: `crew ${c.busy ? "busy" : ""}` }, s("path", { d: "M-11-6H3v3h4l4 5v4h-3a3 3 0 0 1-6 0h-5a3 3 0 0 1-6 0h-2z" }), s("title", {}, c.says));
      labels.push(this.place(x, y, van));
      const name = s("g", { className: `crew ${c.busy ? "busy" : ""}` }, s("text", { y: 4, "text-anchor": "middle" }, c.name));
      labels.push(tag(c.busy ? 4 : 8, [[x, y, 0, 15], [x, y, 0, 28], [x, y, 0, -16]], c.name.length * 6 + 6, 13, name));
    }
    for (const z of this.zones) {
      if (!z.centre) continue;
      const priority = zones[z.id];
      const label = s(
        "g",
        {
          className: `zone-label ${priority || ""} ${selected === z.id ? "selected" : ""}`,
          role: "button",
          tabindex: "0",
          "aria-label": `Zone ${z.name}${priority ? `, ${tone(priority)}` : ", nothing wrong"}`,
          "aria-pressed": selected === z.id ? "true" : "false",
          onclick: () => this.moved || this.onzone(z.id),
          onkeydown: (e) => {
            if (e.key === "Enter" || e.key === " ") {
              e.preventDefault();
              this.onzone(z.id);
            }
          },
        },
        s("text", { y: 4, "text-anchor": "middle" }, z.name),
      );
      const [x, y] = z.centre;
      labels.push(tag(selected === z.id ? 3 : priority ? 5 : 6, [[x, z.top, 0, -10], [x, z.bottom, 0, 12], [x, y, 0, 0], [x, y, 0, 22], [x, y, 0, -22]], z.name.length * 7.4 + 8, 16, label));
    }
    const focused = document.activeElement?.closest?.(".zone-label") ? document.activeElement.getAttribute("aria-label") : null;
    this.layers.signs.replaceChildren(...signs);
    this.layers.labels.replaceChildren(...labels);
    if (focused) [...this.svg.querySelectorAll(".zone-label")].find((el) => el.getAttribute("aria-label").split(",")[0] === focused.split(",")[0])?.focus();
    this.apply();
  }

  fit() {
    if (!this.extent) return;
    let [x0, y0, x1, y1] = this.extent;
    const [w0, t0] = [x1 - x0 || 100, y1 - y0 || 100];
    for (const c of this.overlay.crews) {
      const [x, y] = this.xy([c.longitude_deg, c.latitude_deg]);
      if (x < x0 - w0 * 0.4 || x > x1 + w0 * 0.4 || y < y0 - t0 * 0.4 || y > y1 + t0 * 0.4) continue; // far away: do not shrink the town for it
      [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x), Math.max(y1, y)];
    }
    const w = x1 - x0 || 100;
    const t = y1 - y0 || 100;
    this.view = { x: (x0 + x1) / 2, y: (y0 + y1) / 2 - t * 0.015, w: w * 1.1, h: t * 1.17 };
    this.untouched = true;
    this.apply();
  }

  zoom(by, px, py) {
    if (!this.view) return;
    this.untouched = false;
    const limit = (this.extent[2] - this.extent[0] || 100) * 2;
    const w = Math.min(limit, Math.max(limit / 120, this.view.w * by));
    const f = w / this.view.w;
    if (px !== undefined) {
      const [mx, my] = this.toMap(px, py);
      this.view.x = mx + (this.view.x - mx) * f;
      this.view.y = my + (this.view.y - my) * f;
    }
    this.view.w = w;
    this.view.h *= f;
    this.apply();
  }

  apply() {
    const width = this.svg.parentElement.clientWidth || 1;
    const height = this.svg.parentElement.clientHeight || 1;
    this.scale = Math.max(this.view.w / width, this.view.h / height);
    const w = width * this.scale;
    const t = height * this.scale;
    this.svg.setAttribute("viewBox", `${this.view.x - w / 2} ${this.view.y - t / 2} ${w} ${t}`);
    this.svg.classList.toggle("far", this.scale > 4);
    for (const el of this.svg.querySelectorAll(".at")) el.setAttribute("transform", `translate(${el.dataset.x} ${el.dataset.y}) scale(${this.scale})`);
    this.settle(width, height);
  }

  /** Give every label its first free spot, most important labels first. */
  settle(width, height) {
    const taken = [];
    for (const { el, spots, w, t } of [...(this.tags || [])].sort((a, b) => a.rank - b.rank)) {
      const free = spots.find(([x, y, dx, dy]) => {
        const cx = (x - this.view.x) / this.scale + width / 2 + dx;
        const cy = (y - this.view.y) / this.scale + height / 2 + dy;
        const box = [cx - w / 2, cy - t / 2, cx + w / 2, cy + t / 2];
        if (taken.some((o) => box[0] < o[2] && box[2] > o[0] && box[1] < o[3] && box[3] > o[1])) return false;
        taken.push(box);
        el.setAttribute("transform", `translate(${x} ${y}) scale(${this.scale}) translate(${dx} ${dy})`);
        return true;
      });
      el.style.display = free ? "" : "none";
    }
  }

  toMap(px, py) {
    const area = this.svg.parentElement;
    return [this.view.x + (px - area.clientWidth / 2) * this.scale, this.view.y + (py - area.clientHeight / 2) * this.scale];
  }

  pointers() {
    const down = new Map();
    let gap = 0;
    this.moved = false;
    this.svg.addEventListener("wheel", (e) => {
      if (!this.view || !(e.ctrlKey || e.metaKey || this.box.contains(document.activeElement))) return;
      e.preventDefault();
      this.zoom(e.deltaY > 0 ? 1.15 : 1 / 1.15, e.offsetX, e.offsetY);
    }, { passive: false });
    this.svg.addEventListener("pointerdown", (e) => {
      down.set(e.pointerId, [e.clientX, e.clientY]);
      this.moved = false;
    });
    window.addEventListener("pointermove", (e) => {
      const last = down.get(e.pointerId);
      if (!last || !this.view) return;
      const dx = e.clientX - last[0];
      const dy = e.clientY - last[1];
      if (down.size === 1) {
        if (!this.moved && Math.hypot(dx, dy) < 5) return;
        this.moved = true;
        this.untouched = false;
        this.view.x -= dx * this.scale;
        this.view.y -= dy * this.scale;
        this.apply();
      }
      down.set(e.pointerId, [e.clientX, e.clientY]);
      if (down.size === 2) {
        const [a, b] = [...down.values()];
        const now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (gap) this.zoom(gap / now);
        gap = now;
        this.moved = true;
      }
    });
    const up = (e) => {
      down.delete(e.pointerId);
      gap = 0;
    };
    window.addEventListener("pointerup", up);
    window.addEventListener("pointercancel", up);
  }
}
