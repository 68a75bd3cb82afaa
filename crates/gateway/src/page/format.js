// Nodes and words. Whatever comes from elsewhere becomes text, never markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, names = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(names)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A text that stays the same is left alone: selections, readers and layouts keep their place.
export function set(where, text) {
  const node = typeof where === "string" ? $(where) : where;
  if (node.textContent !== String(text)) node.textContent = text;
}

// One child for each item, by place; children that exist are filled anew, so that focus and layout stay.
export function each(host, items, make, fill) {
  while (host.children.length > items.length) host.lastElementChild.remove();
  items.forEach((item, i) => {
    if (!host.children[i]) host.append(make(item));
    fill(host.children[i], item, i);
  });
}

// A cell is a text, or { text, href, title, mark }, or { list: cells }, or { line: texts and links }.
export function rows(body, items, cells) {
  const heads = [...body.closest("table").tHead.rows[0].cells];
  const none = body.querySelector(".none");
  if (items.length && none) none.remove();
  if (!items.length) {
    if (none) return set(none.firstChild, body.dataset.none);
    body.replaceChildren(el("tr", { class: "none" }, el("td", { colspan: heads.length }, body.dataset.none)));
    return;
  }
  const make = () => el("tr", {}, ...heads.map((head) => el("td", head.className ? { class: head.className } : {})));
  each(body, items, make, (row, item, i) => cells(item, i).forEach((cell, k) => put(row.cells[k], cell)));
}

// Pairs of a name and a value, as a list of figures or of properties.
export function pairs(host, items) {
  const make = () => el("div", {}, el("dt"), el("dd"));
  each(host, items, make, (node, [name, cell]) => {
    set(node.firstChild, name);
    put(node.lastChild, cell);
  });
}

export function put(node, cell) {
  if (cell?.list) return each(node, cell.list, () => el("div"), put);
  if (cell?.line) return line(node, cell.line);
  const { text, href, title, mark, small } = typeof cell === "object" && cell ? cell : { text: cell };
  const tag = href ? "a" : mark || small ? "b" : null;
  let inner = node;
  if (tag) {
    if (node.firstElementChild?.localName !== tag) node.replaceChildren(el(tag));
    inner = node.firstElementChild;
  }
  if (href && inner.getAttribute("href") !== href) inner.setAttribute("href", href);
  if (title) inner.title = title;
  set(inner, text ?? "–");
  if (!small) return;
  if (!inner.nextElementSibling) node.append(" ", el("small"));
  set(inner.nextElementSibling, small);
}

// Words and links in a row; what stays the same is left alone.
function line(node, words) {
  const key = JSON.stringify(words);
  if (node.dataset.line === key) return;
  node.dataset.line = key;
  node.replaceChildren(...words.map((word) => {
    if (typeof word === "string") return word;
    const { text, href, title, tag = href ? "a" : "small" } = word;
    return el(tag, { ...(href && { href }), ...(title && { title }) }, text);
  }));
}

// A text in which commands stand between backticks.
export function prose(text) {
  return { line: text.split("`").map((word, i) => (i % 2 ? { text: word, tag: "code" } : word)) };
}

// The key of whoever looks, where the node demands one: it goes when the tab is closed.
const KEY = "talkoo-key";
export const keepKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

// What the node answers; an error says why it does not.
export async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) throw await refusal(response);
  return response;
}

export const get = async (path) => (await ask(path)).json();

export const send = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

// The data of server-sent events, one by one.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const all = (rest + value).split("\n\n");
    rest = all.pop();
    for (const event of all) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield data.slice(6);
    }
  }
}

export async function post(path, body) {
  const said = await (await send(path, body)).json();
  if (said.error) throw new Error(said.error.message);
}

async function refusal(response) {
  const said = await response.json().catch(() => null);
  const error = new Error(said?.error?.message || `The node answered ${response.status}`);
  error.status = response.status;
  error.code = said?.error?.code;
  return error;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compacted = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 6 });

export const count = (value) => whole.format(value);
export const compact = (value) => (Math.abs(value) < 10000 ? count(value) : compacted.format(value));
export const credits = (micro) => money.format(micro / 1e6);
export const decimal = (value, places) => (value == null ? "–" : value.toFixed(places));
export const percent = (value) => `${Number(value.toFixed(1))} %`;
export const delay = (ms) => (ms == null ? "–" : `${ms.toFixed(ms < 10 ? 1 : 0)} ms`);
export const short = (hex) => (hex.length > 12 ? hex.slice(0, 8) : hex);
export const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return plural(Math.floor(hours / 24), "day");
}

const minutes = { hour: "2-digit", minute: "2-digit" };
const time = new Intl.DateTimeFormat([], minutes);
const moment = new Intl.DateTimeFormat([], { month: "short", day: "numeric", ...minutes, second: "2-digit" });

// The hour alone where it is within half a day.
export const clock = (ms, now) => (Math.abs(ms - now) < 432e5 ? time : moment).format(ms);
export const stamp = (ms) => moment.format(ms);
