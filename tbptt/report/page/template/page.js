"use strict";
// Draws the charts of the page as SVG, as wide as the page is, with the values under the pointer.
const { runs, panels } = JSON.parse(document.getElementById("data").textContent);
const HEIGHT = 290, LEFT = 54, RIGHT = 26, TOP = 12, BOTTOM = 46, LETTER = 13; // pixels
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const hidden = new Set(); // indices of runs

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function scale([from, to], [start, end], log) {
  const place = log ? Math.log : (value) => value;
  const low = place(from), span = place(to) - low || 1;
  return (value) => start + ((place(value) - low) / span) * (end - start);
}

function linearTicks(from, to, count) {
  const rough = (to - from || 1) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(from / step), last = Math.floor(to / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}

function logTicks(from, to, count, base) {
  const power = (value) => Math.log(value) / Math.log(base);
  const first = Math.ceil(power(from) - 1e-9), last = Math.floor(power(to) + 1e-9);
  if (last - first < 2) return linearTicks(from, to, count).filter((tick) => tick > 0);
  const step = Math.ceil((last - first + 1) / count);
  return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => base ** (first + i * step));
}

function short(value) {
  const size = Math.abs(value);
  const [divisor, suffix] = [[1e9, "B"], [1e6, "M"], [1e4, "k"]].find(([least]) => size >= least) || [1, ""];
  const unit = suffix === "k" ? 1e3 : divisor;
  return Number((value / unit).toPrecision(4)).toLocaleString("en") + suffix;
}

const exact = (value) => value.toLocaleString("en", { maximumSignificantDigits: Math.abs(value) >= 1000 ? 7 : 5 });

// The points [x, y, low, high] of a curve, in pieces between which values are missing. A logarithmic x is above 0.
function pieces(series, key, log) {
  const found = [[]];
  series.y.forEach((y, i) => {
    const x = series.x[key][i];
    if (y === null || x === null || (log && x <= 0)) found.push([]);
    else found[found.length - 1].push([x, y, series.low[i] ?? null, series.high[i] ?? null]);
  });
  return found.filter((piece) => piece.length);
}

class Chart {
  constructor(figure, chart, panel) {
    Object.assign(this, { chart, panel, plot: figure.querySelector(".plot"), key: Object.keys(chart.x_labels)[0] });
    const place = (event) => event.clientX - this.plot.getBoundingClientRect().left;
    this.plot.addEventListener("pointermove", (event) => this.point(place(event)));
    this.plot.addEventListener("pointerleave", () => this.point(null));
    this.plot.addEventListener("focusout", () => this.point(null));
    this.plot.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!direction) return;
      event.preventDefault();
      this.point(Math.min(this.right, Math.max(LEFT, (this.at ?? LEFT) + (direction * (this.right - LEFT)) / 40)));
    });
    new ResizeObserver(() => this.width !== this.plot.clientWidth && this.draw()).observe(this.plot);
  }

  draw() {
    this.width = this.plot.clientWidth;
    this.right = this.width - RIGHT;
    const log = this.panel.log_x, bottom = HEIGHT - BOTTOM;
    this.lines = this.chart.series
      .filter((series) => !hidden.has(series.run))
      .map((series) => ({ series, run: runs[series.run], pieces: pieces(series, this.key, log) }))
      .filter((line) => line.pieces.length);
    const points = this.lines.flatMap((line) => line.pieces.flat());
    const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
    const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
    const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
    const range = xs.length ? [log || least(xs) > most(xs) / 2 ? least(xs) : 0, most(xs)] : [1, 2];
    const limits = this.chart.limits || (ys.length ? [least(ys), most(ys)] : [1, 2]);
    this.x = scale(range, [LEFT, this.right], log);
    this.y = scale(limits, [bottom, TOP], this.chart.log_y);
    const label = `${this.chart.title}, ${this.chart.y_label}, against ${this.chart.x_labels[this.key]}: ` +
      `${this.lines.length} curves. Arrow keys show the values.`;
    const svg = element("svg", { width: this.width, height: HEIGHT, role: "img", tabindex: 0, "aria-label": label });
    const clip = `clip-${this.panel.number}-${this.panel.charts.indexOf(this.chart)}`;
    svg.append(element("clipPath", { id: clip }));
    const inside = { x: LEFT, y: TOP - 4, width: Math.max(0, this.right - LEFT + 4), height: bottom - TOP + 4 };
    svg.lastChild.append(element("rect", inside));
    this.axes(svg, range, limits, bottom);
    const drawn = element("g", { "clip-path": `url(#${clip})` });
    for (const line of this.lines) this.line(drawn, line);
    svg.append(drawn);
    this.marks(svg, range, bottom);
    this.ends(svg, bottom);
    this.pointer = element("g");
    svg.append(this.pointer);
    this.plot.replaceChildren(svg);
  }

  axes(svg, range, limits, bottom) {
    const wide = Math.max(2, Math.floor((this.right - LEFT) / 75));
    const xTicks = this.panel.log_x ? logTicks(...range, wide, this.panel.base) : linearTicks(...range, wide);
    for (const tick of xTicks)
      svg.append(element("text", { x: this.x(tick), y: bottom + 18, "text-anchor": "middle" }, short(tick)));
    for (const tick of this.chart.log_y ? logTicks(...limits, 6, 10) : linearTicks(...limits, 6)) {
      svg.append(element("line", { class: "grid", x1: LEFT, x2: this.right, y1: this.y(tick), y2: this.y(tick) }));
      svg.append(element("text", { x: LEFT - 8, y: this.y(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    const middle = (LEFT + this.right) / 2, name = this.chart.x_labels[this.key];
    svg.append(element("text", { x: middle, y: HEIGHT - 8, "text-anchor": "middle" }, name));
  }

  marks(svg, range, bottom) {
    const within = (mark) => mark.x >= range[0] && mark.x <= range[1];
    const shown = (mark) => mark.runs.filter((run) => this.lines.some((line) => line.series.run === run));
    for (const [i, mark] of this.chart.marks.filter((mark) => within(mark) && shown(mark).length).entries()) {
      const x = this.x(mark.x), y = TOP + 10 + 15 * i, before = x - LEFT > this.right - x;
      const label = `${shown(mark).map((run) => runs[run].letter).join(", ")}: ${mark.label}`;
      svg.append(element("line", { class: "mark-line", x1: x, x2: x, y1: TOP, y2: bottom }));
      svg.append(element("text", { x: x + (before ? -6 : 6), y, "text-anchor": before ? "end" : "start" }, label));
    }
  }

  line(group, { series, run, pieces }) {
    const at = (x, y) => `${this.x(x).toFixed(1)},${this.y(y).toFixed(1)}`;
    const place = (points, index) => points.map((point) => at(point[0], point[index]));
    const colour = `c${run.colour}`, few = pieces.flat().length <= 60;
    for (const piece of pieces) {
      const banded = piece.filter((point) => point[2] !== null && point[3] !== null);
      if (banded.length > 1) {
        const edge = [...place(banded, 3), ...place(banded, 2).reverse()];
        group.append(element("path", { class: `band ${colour}`, d: `M${edge.join("L")}Z` }));
      }
      const path = { class: `curve ${colour}`, d: `M${place(piece, 1).join("L")}`, "data-run": series.run };
      group.append(element("path", { ...path, "stroke-dasharray": DASHES[run.dash % DASHES.length] }));
      for (const point of few || piece.length === 1 ? piece : [])
        group.append(element("circle", { class: `dot ${colour}`, cx: this.x(point[0]), cy: this.y(point[1]), r: 2.4 }));
    }
  }

  // The letter of each run behind the end of its curve, pushed apart where they would overlap.
  ends(svg, bottom) {
    const ends = this.lines.map(({ run, pieces }) => {
      const [x, y] = pieces.at(-1).at(-1);
      return { run, x: this.x(x), y: Math.max(TOP, Math.min(bottom, this.y(y))) };
    });
    const beside = (a, b) => Math.abs(a.x - b.x) < 16;
    ends.sort((a, b) => a.y - b.y);
    for (const [i, end] of ends.entries())
      for (const above of ends.slice(0, i)) if (beside(above, end)) end.y = Math.max(end.y, above.y + LETTER);
    for (const [i, end] of ends.reverse().entries()) {
      end.y = Math.min(end.y, bottom);
      for (const below of ends.slice(0, i)) if (beside(below, end)) end.y = Math.min(end.y, below.y - LETTER);
    }
    if (ends.some((end) => end.y < 0)) return; // too many
    for (const end of ends)
      svg.append(element("text", { class: `end c${end.run.colour}`, x: end.x + 8, y: end.y + 4 }, end.run.letter));
  }

  point(at) {
    this.at = at;
    this.pointer?.replaceChildren();
    this.plot.querySelector(".tip")?.remove();
    const distance = (point) => Math.abs(this.x(point[0]) - at);
    const closest = (points) => points.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    const near = at === null ? [] : this.lines
      .map((line) => ({ run: line.run, point: closest(line.pieces.flat()) }))
      .filter(({ point }) => distance(point) < 40);
    if (!near.length) return;
    const nearest = closest(near.map(({ point }) => point));
    const x = this.x(nearest[0]);
    this.pointer.append(element("line", { class: "rule", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const { run, point } of near) {
      const place = { cx: this.x(point[0]), cy: this.y(point[1]), r: 4 };
      this.pointer.append(element("circle", { class: `dot c${run.colour}`, ...place }));
    }
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.append(`${this.chart.x_labels[this.key]}: ${exact(nearest[0])}`);
    near.sort((a, b) => a.point[1] - b.point[1]);
    for (const { run, point } of near.slice(0, 10)) {
      const [row, badge, value] = ["div", "span", "b"].map((name) => document.createElement(name));
      badge.className = `badge c${run.colour}`;
      badge.textContent = run.letter;
      value.textContent = exact(point[1]);
      row.append(badge, ` ${run.name} `, value);
      tip.append(row);
    }
    this.plot.append(tip);
    const left = x + 12 + tip.offsetWidth > this.width ? x - 12 - tip.offsetWidth : x + 12;
    tip.style.left = `${Math.max(0, left)}px`;
  }
}

const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));
const all = [];
for (const section of document.querySelectorAll(".panel")) {
  const number = Number(section.dataset.panel), panel = Object.assign(panels[number], { number });
  const figures = [...section.querySelectorAll("figure")];
  const charts = figures.map((figure) => new Chart(figure, panel.charts[figure.dataset.chart], panel));
  all.push(...charts);
  section.querySelector(".controls").hidden = false;
  section.querySelector(".controls").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.run !== undefined) {
      const run = Number(button.dataset.run), show = hidden.delete(run);
      if (!show) hidden.add(run);
      document.querySelectorAll(`button[data-run="${run}"]`).forEach((other) => press(other, show));
      return all.forEach((chart) => chart.draw());
    }
    if (button.dataset.x !== undefined) {
      section.querySelectorAll("[data-x]").forEach((other) => press(other, other === button));
      charts.forEach((chart) => (chart.key = button.dataset.x));
    } else press(button, (panel.log_x = !panel.log_x));
    charts.forEach((chart) => chart.draw());
  });
}
all.forEach((chart) => chart.draw());
