// Observed against expected, with the band of what is normal. Plain SVG, redrawn when its width changes.
import { h, s } from "./dom.js";
import { num, unit } from "./words.js";

const BAND_SIGMAS = 3;
const PAD = { left: 44, right: 12, top: 10, bottom: 22 };

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw) || raw;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) found.push(Math.round(v / step) * step);
  return found;
}

function timeTicks(from, to, times, count) {
  const hours = (to - from) / 3.6e6;
  const every = [0.25, 0.5, 1, 2, 3, 6, 12, 24, 48, 96, 168].find((e) => hours / e <= count) || 336;
  const found = [];
  const quarter = 9e5;
  for (let ms = Math.ceil(from / quarter) * quarter; ms <= to; ms += quarter) {
    const hour = times.hour(ms);
    if (every >= 24 ? hour === 0 : Math.abs(hour / every - Math.round(hour / every)) < 1e-6) found.push(ms);
  }
  const thin = every > 24 ? Math.round(every / 24) : 1;
  return found.filter((_, i) => i % thin === 0);
}

export class Chart {
  /** `times` says clock times in the town's zone. */
  constructor(box, times) {
    this.box = box;
    this.times = times;
    this.series = null;
    this.svg = s("svg", { className: "chart", role: "img", tabindex: "0", "data-testid": "chart" });
    this.readout = h("p", { className: "readout", "aria-live": "off" });
    box.replaceChildren(this.svg, this.readout);
    this.index = null;
    new ResizeObserver(() => this.draw()).observe(box);
    this.svg.addEventListener("pointermove", (e) => this.point(e.offsetX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("blur", () => {
      this.readout.setAttribute("aria-live", "off");
      this.point(null);
    });
    this.svg.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -12, PageDown: 12 }[e.key];
      if (!step || !this.x) return;
      e.preventDefault();
      this.readout.setAttribute("aria-live", "polite"); // whoever steps through it hears the values
      const last = this.series.at_ms.length - 1;
      this.index = Math.max(0, Math.min(last, (this.index ?? last) + step));
      this.cross();
    });
  }

  /** `marks`: [{at, label, priority?}] are drawn as vertical lines; `alert` colours what is outside of the band. */
  show(series, { from, to, marks = [], alert = null } = {}) {
    Object.assign(this, { series, from, to, marks, alert });
    this.draw();
  }

  draw() {
    const { series, svg } = this;
    const width = this.box.clientWidth;
    const height = Math.max(120, this.box.clientHeight - 24);
    if (!width) return;
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (!series || !series.at_ms.length) {
      svg.setAttribute("aria-label", "No values yet");
      svg.replaceChildren(s("text", { x: width / 2, y: height / 2, "text-anchor": "middle", className: "soft" }, "No values in this window yet"));
      this.readout.textContent = "";
      return;
    }
    const { at_ms: at, observed, expected, sigma } = series;
    const low = expected.map((v, i) => (v === null || sigma[i] === null ? null : v - BAND_SIGMAS * sigma[i]));
    const high = expected.map((v, i) => (v === null || sigma[i] === null ? null : v + BAND_SIGMAS * sigma[i]));
    const values = [...observed, ...low, ...high].filter((v) => v !== null);
    let bottom = Math.min(...values);
    let top = Math.max(...values);
    if (bottom >= 0 && bottom < 0.4 * top) bottom = 0;
    const room = (top - bottom || Math.abs(top) || 1) * 0.06;
    top += room;
    if (bottom !== 0) bottom -= room;
    const from = this.from ?? at[0];
    const to = this.to ?? at[at.length - 1];
    const x = (this.x = (ms) => PAD.left + ((ms - from) / (to - from || 1)) * (width - PAD.left - PAD.right));
    const y = (this.y = (v) => height - PAD.bottom - ((v - bottom) / (top - bottom)) * (height - PAD.top - PAD.bottom));
    const gap = 4 * Math.max(3e5, (at[at.length - 1] - at[0]) / at.length);
    const path = (column, keep = () => true) => {
      let d = "";
      let down = false;
      for (let i = 0; i < at.length; i++) {
        const on = column[i] !== null && keep(i);
        if (on) d += `${down && at[i] - at[i - 1] < gap ? "L" : "M"}${x(at[i]).toFixed(1)} ${y(column[i]).toFixed(1)}`;
        down = on;
      }
      return d;
    };
    const inside = at.map((_, i) => i).filter((i) => low[i] !== null);
    const band =
      inside.length > 1
        ? `M${inside.map((i) => `${x(at[i]).toFixed(1)} ${y(high[i]).toFixed(1)}`).join("L")}L${inside
            .reverse()
            .map((i) => `${x(at[i]).toFixed(1)} ${y(low[i]).toFixed(1)}`)
            .join("L")}Z`
        : "";
    const outside = (i) => low[i] !== null && (observed[i] > high[i] || observed[i] < low[i]);
    const rules = ticks(bottom, top, Math.max(2, Math.floor(height / 48))).map((v) => [
      s("line", { x1: PAD.left, x2: width - PAD.right, y1: y(v), y2: y(v), className: "rule" }),
      s("text", { x: PAD.left - 6, y: y(v) + 4, "text-anchor": "end" }, num(v, 4)),
    ]);
    const days = timeTicks(from, to, this.times, Math.max(2, Math.floor(width / 76))).map((ms) => {
      const midnight = this.times.hour(ms) === 0;
      return [
        s("line", { x1: x(ms), x2: x(ms), y1: height - PAD.bottom, y2: height - PAD.bottom + 4, className: "tick" }),
        midnight && s("line", { x1: x(ms), x2: x(ms), y1: PAD.top, y2: height - PAD.bottom, className: "rule day" }),
        s("text", { x: x(ms), y: height - 6, "text-anchor": "middle" }, midnight ? this.times.day.format(ms) : this.times.hm.format(ms)),
      ];
    });
    const marks = this.marks
      .map((m) => ({ ...m, ms: new Date(m.at).getTime() }))
      .filter((m) => m.ms >= from && m.ms <= to)
      .sort((a, b) => a.ms - b.ms)
      .map((m, i) => {
        const right = x(m.ms) > PAD.left + 90;
        return [
          s("line", { x1: x(m.ms), x2: x(m.ms), y1: PAD.top, y2: height - PAD.bottom, className: `mark ${m.priority || ""}` }),
          s("text", { x: x(m.ms) + (right ? -5 : 5), y: PAD.top + 9 + (i % 4) * 13, "text-anchor": right ? "end" : "start", className: "mark-label" }, m.label),
        ];
      });
    this.hair = s("g", { className: "hair" });
    svg.replaceChildren(
      ...[
        rules,
        days,
        band && s("path", { d: band, className: "band" }),
        s("path", { d: path(expected), className: "expected" }),
        s("path", { d: path(observed), className: "observed" }),
        this.alert && s("path", { d: path(observed, outside), className: `outside ${this.alert}` }),
        marks,
        this.hair,
      ]
        .flat(Infinity)
        .filter(Boolean),
    );
    svg.setAttribute("aria-label", this.say(at.length - 1));
    this.cross();
  }

  say(i) {
    const { at_ms, observed, expected, sigma, unit: u } = this.series;
    const spread = sigma[i] === null ? 0 : BAND_SIGMAS * sigma[i];
    const band = expected[i] === null ? "nothing expected yet" : `expected ${num(expected[i])} (normal ${num(expected[i] - spread)} to ${num(expected[i] + spread)})`;
    return `${this.times.full.format(at_ms[i])}: observed ${num(observed[i])} ${unit(u)}, ${band}`;
  }

  point(px) {
    if (!this.series?.at_ms.length || !this.x) return;
    if (px === null) this.index = null;
    else {
      const at = this.series.at_ms;
      let best = 0;
      for (let i = 1; i < at.length; i++) if (Math.abs(this.x(at[i]) - px) < Math.abs(this.x(at[best]) - px)) best = i;
      this.index = best;
    }
    this.cross();
  }

  cross() {
    if (!this.series?.at_ms.length) return;
    const i = this.index === null ? this.series.at_ms.length - 1 : Math.min(this.index, this.series.at_ms.length - 1);
    this.readout.textContent = this.say(i);
    if (this.index === null || this.series.observed[i] === null) {
      this.hair.replaceChildren();
      return;
    }
    const px = this.x(this.series.at_ms[i]);
    this.hair.replaceChildren(
      s("line", { x1: px, x2: px, y1: PAD.top, y2: this.y(0) > 0 ? Number(this.svg.getAttribute("height")) - PAD.bottom : 0 }),
      s("circle", { cx: px, cy: this.y(this.series.observed[i]), r: 4 }),
    );
  }
}
