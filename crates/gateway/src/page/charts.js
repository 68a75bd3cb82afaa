// Small charts in SVG, drawn at the width that they have, so that their words keep their size.

import { capital, count, credits, delay, each, el, plural, set, short } from "./format.js";

const MOST = 400;
const FEW = 60;

// A line over x. `draw` takes { name, points: [[x, y]…], smooth, none, x: { name, text, tick, last, least },
// y: { text, tick } }; `none` says why there are no points.
export function lineChart(figure) {
  const plot = figure.querySelector(".plot");
  const readout = figure.querySelector(".readout");
  const svg = shape("svg", { role: "img", tabindex: 0 });
  const chart = { plot, readout, svg, spec: null, at: null };
  plot.append(svg);
  new ResizeObserver(() => paint(chart)).observe(plot);
  svg.addEventListener("pointermove", (event) => point(chart, nearest(chart, event)));
  svg.addEventListener("pointerleave", () => point(chart, null));
  svg.addEventListener("focus", () => readout.setAttribute("aria-live", "polite"));
  svg.addEventListener("blur", () => {
    readout.setAttribute("aria-live", "off");
    point(chart, null);
  });
  svg.addEventListener("keydown", (event) => step(chart, event));
  return (spec) => {
    chart.spec = spec;
    paint(chart);
  };
}

// Parts of a whole, as one bar with its legend. Items are { code, text, value, label }.
export function shares(host, items, none) {
  if (!host.firstChild) host.append(el("div", { class: "bar", "aria-hidden": "true" }), el("ul", { class: "legend" }), el("p", { class: "quiet" }));
  const [bar, legend, empty] = host.children;
  const some = items.filter((item) => item.value > 0);
  each(bar, some, () => el("span"), (part, item) => {
    part.style.flexGrow = item.value;
    part.dataset.tone = tone(item.code);
  });
  const make = () => el("li", {}, el("i"), el("span"), el("b"));
  each(legend, some, make, (line, item) => {
    line.children[0].dataset.tone = tone(item.code);
    set(line.children[1], item.text);
    set(line.children[2], item.label);
  });
  set(empty, some.length ? "" : none);
}

// Earnings of the fourteen days up to today, training below and serving above.
export function dayBars(figure, earnings, now) {
  const plot = figure.querySelector(".plot");
  const days = lastDays(earnings, now);
  const wide = plot.clientWidth, high = plot.clientHeight;
  const key = JSON.stringify([days, wide, high]);
  if (!wide || plot.dataset.key === key) return;
  plot.dataset.key = key;
  const most = Math.max(...days.map(sum), 1);
  const one = wide / days.length, floor = high - 20;
  const svg = shape("svg", { role: "img", width: wide, height: high, "aria-label": daysSaid(days) });
  svg.append(shape("path", { class: "grid", d: `M0 ${floor + 0.5}H${wide}` }));
  days.forEach((day, i) => {
    const group = shape("g", {}, shape("title", {}, `${day.day}: ${credits(sum(day))} credits`), shape("rect", { x: i * one, width: one, height: floor, opacity: 0 }));
    let top = floor;
    for (const kind of ["training", "serving"]) {
      const height = ((floor - 8) * day[kind]) / most;
      top -= height;
      if (height) group.append(shape("rect", { class: kind, x: i * one + one * 0.18, width: one * 0.64, y: top, height, rx: 1.5 }));
    }
    svg.append(group);
  });
  svg.append(words(0, high - 4, "start", dayName(days[0].day)), words(wide, high - 4, "end", "today"));
  plot.replaceChildren(svg);
}

// This node in the middle, peers around it: the longer the line, the longer the delay.
export function peerGraph(plot, peers) {
  const wide = plot.clientWidth, high = plot.clientHeight;
  const key = JSON.stringify([peers, wide]);
  if (!wide || plot.dataset.key === key) return;
  plot.dataset.key = key;
  const svg = shape("svg", { role: "img", width: wide, height: high, "aria-label": peersSaid(peers) });
  const shown = peers.slice(0, FEW);
  const named = shown.length <= wide / 60;
  const rx = wide / 2 - (named ? 62 : 26), ry = high / 2 - 34;
  const longest = Math.max(10, ...shown.map((peer) => peer.rtt_ms ?? 0)) * 1.02;
  const reach = (ms) => 0.3 + 0.7 * (ms == null ? 1 : Math.log1p(ms) / Math.log1p(longest));
  const lines = shape("g"), spots = shape("g");
  shown.forEach((peer, i) => {
    const turn = (2 * Math.PI * (i + 0.5)) / shown.length - Math.PI / 2;
    const x = wide / 2 + Math.cos(turn) * rx * reach(peer.rtt_ms), y = high / 2 + Math.sin(turn) * ry * reach(peer.rtt_ms);
    lines.append(shape("path", { class: way(peer), d: `M${wide / 2} ${high / 2}L${x} ${y}` }));
    spots.append(spot(peer, i, x, y, named));
  });
  const me = shape("circle", { class: "me", cx: wide / 2, cy: high / 2, r: 11 });
  const [circles, names] = rings(wide, high, rx, ry, longest, reach);
  svg.append(circles, lines, names, spots, me, words(wide / 2, high / 2 + 27, "middle", "this node", "label"));
  plot.replaceChildren(svg);
}

export const wayName = (peer) => way(peer).replace("unknown", "not connected");
export const way = (peer) => (peer.direct == null ? "unknown" : peer.direct ? "direct" : "relayed");

export function peersSaid(peers) {
  if (!peers.length) return "No peers are known.";
  const of = (kind) => peers.filter((peer) => wayName(peer) === kind).length;
  const kinds = ["direct", "relayed", "not connected"].filter((kind) => of(kind));
  const parts = kinds.map((kind) => `${of(kind)} ${kind}`);
  const more = peers.length > FEW ? ` The first ${FEW} are drawn.` : "";
  return `${plural(peers.length, "peer")}: ${parts.join(", ")}.${more}`;
}

// ---- the line chart

function paint(chart) {
  const { plot, svg, spec } = chart;
  const wide = plot.clientWidth, high = plot.clientHeight;
  if (!spec || !wide) return;
  for (const [name, value] of [["width", wide], ["height", high]]) svg.setAttribute(name, value);
  const soft = spec.smooth ? smoothed(spec.points, spec.smooth) : null;
  chart.raw = thinned(spec.points, MOST);
  const lines = soft ? [["raw", chart.raw], ["line", thinned(soft, MOST)]] : [["line", chart.raw]];
  chart.soft = soft ? new Map(soft.map(([x, y]) => [x, y])) : null;
  svg.dataset.points = spec.points.length;
  svg.setAttribute("aria-label", summary(spec));
  if (!spec.points.length) return blank(chart, wide, high);
  const box = { left: 46, right: wide - 12, top: 10, bottom: high - 36 };
  const [first, last] = range(spec.points, 0);
  chart.x = scale(spread([first, Math.max(last, spec.x.last)]), box.left, box.right, Math.max(2, Math.floor(wide / 110)), spec.x.least);
  chart.y = scale(padded(range(spec.points, 1)), box.bottom, box.top, Math.max(2, Math.floor(high / 45)));
  chart.box = box;
  chart.cursor = shape("g", { class: "cursor" });
  svg.replaceChildren(...axes(chart), ...lines.map(([kind, points]) => curve(chart, kind, points)), chart.cursor);
  point(chart, chart.at);
}

function blank(chart, wide, high) {
  chart.x = null;
  chart.svg.replaceChildren(words(wide / 2, high / 2, "middle", chart.spec.none));
  set(chart.readout, "");
}

function axes({ x, y, box, spec }) {
  const parts = [];
  for (const value of y.ticks) {
    const at = Math.round(y.at(value)) + 0.5;
    parts.push(shape("path", { class: "grid", d: `M${box.left} ${at}H${box.right}` }), words(box.left - 8, at + 4, "end", spec.y.tick(value, y.step)));
  }
  for (const value of x.ticks) {
    const at = x.at(value);
    // A word at the rim would be cut off.
    const anchor = at > box.right - 16 ? "end" : "middle";
    parts.push(words(anchor === "end" ? box.right : at, box.bottom + 17, anchor, spec.x.tick(value, x.step)));
  }
  parts.push(words(box.right, box.bottom + 32, "end", spec.x.name));
  return parts;
}

function curve({ x, y }, kind, points) {
  if (points.length === 1) return shape("circle", { class: "spot", cx: x.at(points[0][0]), cy: y.at(points[0][1]), r: 3 });
  const path = points.map(([a, b], i) => `${i ? "L" : "M"}${x.at(a).toFixed(1)} ${y.at(b).toFixed(1)}`);
  return shape("path", { class: kind, d: path.join("") });
}

// Reads out one point, or the last one where none is meant.
function point(chart, at) {
  chart.at = at;
  if (!chart.x) return;
  const { raw, soft, spec, x, y, box } = chart;
  const i = at == null ? raw.length - 1 : Math.min(at, raw.length - 1);
  const [a, b] = raw[i];
  const calm = soft?.get(a);
  set(chart.readout, `${capital(spec.x.text(a))}: ${spec.y.text(b)}${calm == null || !spec.smooth ? "" : `, smoothed ${spec.y.text(calm)}`}`);
  if (at == null) return chart.cursor.replaceChildren();
  const mark = shape("circle", { cx: x.at(a), cy: y.at(calm ?? b), r: 4 });
  chart.cursor.replaceChildren(shape("path", { d: `M${x.at(a)} ${box.top}V${box.bottom}` }), mark);
}

function nearest({ raw, x, svg }, event) {
  if (!x) return null;
  const left = event.clientX - svg.getBoundingClientRect().left;
  let best = 0;
  raw.forEach(([a], i) => {
    if (Math.abs(x.at(a) - left) < Math.abs(x.at(raw[best][0]) - left)) best = i;
  });
  return best;
}

function step(chart, event) {
  if (!chart.x) return;
  const last = chart.raw.length - 1;
  const from = chart.at ?? last;
  const to = { ArrowLeft: from - 1, ArrowRight: from + 1, PageDown: from - 20, PageUp: from + 20, Home: 0, End: last }[event.key];
  if (event.key === "Escape") point(chart, null);
  if (to === undefined) return;
  event.preventDefault();
  point(chart, Math.min(last, Math.max(0, to)));
}

function summary({ name, points, none, x, y }) {
  if (!points.length) return `${name}. ${none}.`;
  const [first, last] = [points[0], points.at(-1)];
  const [low, high] = range(points, 1);
  const ends = `from ${y.text(first[1])} at ${x.text(first[0])} to ${y.text(last[1])} at ${x.text(last[0])}`;
  return `${name}, ${plural(points.length, "point")}, ${ends}; between ${y.text(low)} and ${y.text(high)}. Arrow keys read single points.`;
}

// The exponential moving average, without the pull of its beginning.
function smoothed(points, weight) {
  let mean = 0, mass = 0;
  return points.map(([x, y]) => {
    mean = weight * mean + (1 - weight) * y;
    mass = weight * mass + (1 - weight);
    return [x, mean / mass];
  });
}

// Keeps, of each stretch, the point that spans the largest triangle with its neighbours: the look of the line stays.
function thinned(points, most) {
  if (points.length <= most) return points;
  const kept = [points[0]];
  const stretch = (points.length - 2) / (most - 2);
  for (let i = 0; i < most - 2; i++) {
    const from = Math.floor(i * stretch) + 1, to = Math.floor((i + 1) * stretch) + 1;
    const next = mean(points.slice(to, Math.max(to + 1, Math.floor((i + 2) * stretch) + 1)));
    const area = (point) => triangle(kept.at(-1), point, next);
    kept.push(points.slice(from, to).reduce((best, point) => (area(point) > area(best) ? point : best)));
  }
  return [...kept, points.at(-1)];
}

const mean = (points) => [0, 1].map((k) => points.reduce((all, point) => all + point[k], 0) / points.length);
const triangle = (a, b, c) => Math.abs((a[0] - c[0]) * (b[1] - a[1]) - (a[0] - b[0]) * (c[1] - a[1]));

function range(points, k) {
  let low = Infinity, high = -Infinity;
  for (const point of points) [low, high] = [Math.min(low, point[k]), Math.max(high, point[k])];
  return [low, high];
}

// One point stands in the middle.
const spread = ([low, high]) => (low === high ? [low - 1, high + 1] : [low, high]);

function padded([low, high]) {
  const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

function scale([low, high], from, to, wanted, least = 0) {
  const span = high - low || 1;
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.7));
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-6; k++) ticks.push(k * step);
  return { step, ticks, at: (value) => from + ((value - low) / span) * (to - from) };
}

// ---- the other charts

const tones = new Map([["working", 1], ["answered", 1]]);

// A reason keeps its colour as long as the page is open.
function tone(code) {
  if (!tones.has(code)) tones.set(code, 2 + ((tones.size - 2) % 5));
  return tones.get(code);
}

const sum = (day) => day.training + day.serving;
const dayName = (day) => new Date(day).toLocaleDateString([], { month: "short", day: "numeric", timeZone: "UTC" });

function lastDays(earnings, now) {
  const name = (ms) => new Date(ms).toISOString().slice(0, 10);
  const last = earnings.reduce((newest, { day }) => (day > newest ? day : newest), name(now));
  const days = Array.from({ length: 14 }, (_, i) => ({ day: name(Date.parse(last) - (13 - i) * 864e5), training: 0, serving: 0 }));
  for (const { day, kind, micro } of earnings) {
    const of = days.find((one) => one.day === day);
    if (of) of[kind] += micro;
  }
  return days;
}

function daysSaid(days) {
  const all = { training: 0, serving: 0 };
  for (const day of days) for (const kind in all) all[kind] += day[kind];
  return `Earnings of the last 14 days: ${credits(all.training)} credits for training, ${credits(all.serving)} for serving.`;
}

function rings(wide, high, rx, ry, longest, reach) {
  const circles = shape("g"), names = shape("g");
  for (const ms of [1, 10, 100, 1000].filter((ms) => ms < longest)) {
    const part = reach(ms);
    circles.append(shape("ellipse", { class: "ring", cx: wide / 2, cy: high / 2, rx: rx * part, ry: ry * part }));
    // Where it is narrow, peers stand on the words.
    if (wide > 500) names.append(words(wide / 2, high / 2 - ry * part - 4, "middle", `${ms} ms`, "label faint"));
  }
  return [circles, names];
}

function spot(peer, i, x, y, named) {
  const far = peer.rtt_ms == null ? "delay unknown" : delay(peer.rtt_ms);
  const group = shape("g", {}, shape("title", {}, `${peer.key}\n${capital(wayName(peer))}, ${far}`));
  group.append(shape("circle", { class: `peer ${way(peer)}`, cx: x, cy: y, r: named ? 7 : 10 }));
  if (!named) group.append(words(x, y + 4, "middle", count(i + 1), "number"));
  else group.append(words(x, y + 21, "middle", short(peer.key), "label"), words(x, y + 34, "middle", far, "label faint"));
  return group;
}

function words(x, y, anchor, text, kind = "") {
  return shape("text", { x, y, "text-anchor": anchor, class: kind }, text);
}

function shape(tag, names = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(names)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
