// The page of a node: its views, and the state that they show.

import { dayBars, peerGraph, peersSaid, shares, way, wayName } from "./charts.js";
import { showModels, startChat } from "./chat.js";
import {
  $, ask, capital, clock, compact, count, credits, decimal, delay, duration, each, el, events, get, hasKey, keepKey, pairs,
  percent, plural, post, prose, put, rows, set, short, stamp,
} from "./format.js";
import { ledger, ledgerIsThere, openLedger, startLedger } from "./ledger.js";
import { choose, startTraining, training } from "./training.js";
import { OUTCOMES, reject, verdict } from "./words.js";

const POLL = 5000;
// Places that the way back remembers.
const TRAIL = 50;
const STATES = { working: "Working", waiting: "Waiting", paused: "Paused", draining: "Finishing" };
const views = { overview, training, peers, serving, ledger, chat: showChat, settings };

let state = null;
let view = "overview";
let skew = 0;

function start() {
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    heading().focus();
  });
  addEventListener("hashchange", () => route(true));
  document.addEventListener("visibilitychange", () => (document.hidden ? hush() : poll(0)));
  addEventListener("pagehide", hush);
  addEventListener("pageshow", (event) => event.persisted && poll(0));
  document.addEventListener("click", (event) => (clicked = event.target.closest("a")));
  for (const wire of [wireKey, wirePause, wireReplay, wireDays, startChat]) wire();
  startTraining(paint);
  startLedger(paint);
  // What is drawn at a width is drawn again at another, and what is told of time goes on.
  addEventListener("resize", paint);
  setInterval(() => document.hidden || paint(), 15000);
  route(false);
  if (!document.hidden) poll(0);
}

// ---- views

// Where the reader came along, each place with the link that led to it.
const trail = [];
let clicked = null;

function route(move) {
  const [, name, ...rest] = location.hash.split("/");
  const before = view;
  view = name in views ? name : "overview";
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${capital(view)} – talkoo`;
  const left = goOn(location.hash);
  const focus = (target) => {
    const link = left && linkTo(left);
    if (!link && !target) scrollTo(0, 0);
    (link || target || heading()).focus({ preventScroll: !link && !target });
  };
  if (view === "training" && rest[0]) choose(rest[0]);
  if (view === "chat") showModels();
  paint();
  // The ledger fetches first what it shows.
  const way = move ? { entered: view !== before, back: trail.at(-2)?.hash, focus } : null;
  if (view === "ledger" && state) openLedger(state, rest, way);
  else if (move) focus(null);
}

// Takes down a place; gives the one that was left by a step back.
function goOn(hash) {
  const by = clicked;
  clicked = null;
  if (trail.at(-1)?.hash === hash) return null;
  if (trail.at(-2)?.hash === hash && !by?.closest("nav")) return trail.pop();
  trail.push({ hash, by });
  if (trail.length > TRAIL) trail.shift();
  return null;
}

// The link that led to a place, or another one to the same.
function linkTo({ hash, by }) {
  const there = (link) => link?.isConnected && link.getAttribute("href") === hash && link.checkVisibility();
  return there(by) ? by : [...document.querySelectorAll("main a")].find(there);
}

const heading = () => document.querySelector(`[data-view=${view}] h1`);

function paint() {
  if (!state) return;
  shell();
  const body = document.querySelector(`[data-view=${view}] > [data-body]`);
  // The ledger waits for its blocks, so that nothing is pushed away by them.
  if (body) body.hidden = view === "ledger" && !ledgerIsThere();
  views[view](state);
}

function shell() {
  const { activity, node, network, trouble } = state;
  for (const dot of document.querySelectorAll("[data-dot]")) dot.dataset.dot = trouble ? "trouble" : activity.state;
  set("shell-state", STATES[activity.state] || activity.state);
  set("version", `talkoo ${state.version}`);
  $("version").title = `${network.name}, ${node.key}`;
  $("forget").hidden = !hasKey();
  showReplay(state);
}

// ---- the state, live

let stream = null;
let timer = null;

function hush() {
  clearTimeout(timer);
  stream?.abort();
  stream = null;
}

// Asks once, then listens; whatever fails is asked for again.
async function poll(wait) {
  hush();
  let [news, why] = [null, null];
  try {
    news = await get("/api/state");
  } catch (error) {
    why = error;
  }
  lock([401, 403].includes(why?.status) ? why.message : "");
  if (news) take(news);
  live(why?.status ? `Refused: ${why.status}` : !news ? "Connection lost, retrying" : wait ? "Live, every 5 s" : "Live");
  if (!document.hidden) timer = news ? setTimeout(listen, wait) : setTimeout(poll, POLL, 0);
}

// Whoever demands a key takes it in a header: an EventSource could not send it.
async function listen() {
  hush();
  const own = (stream = new AbortController());
  try {
    const response = await ask("/api/events", { signal: own.signal });
    live("Live");
    // What goes wrong in showing it is no trouble of the line.
    for await (const state of events(response)) queueMicrotask(() => take(JSON.parse(state)));
  } catch {
    // Said by the next question, if it lasts.
  }
  if (stream === own) poll(POLL);
}

// Who may not see the node is told why, and may give a key.
function lock(why) {
  $("lock").hidden = !why;
  put($("lock-said"), prose(hasKey() ? why : ""));
}

function wireKey() {
  $("lock").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("owner-key").value.trim();
    $("owner-key").value = "";
    // Nothing else may stand in a header.
    if (!/^[\x21-\x7e]+$/.test(key)) return set("lock-said", "That is no key: it consists of plain letters and numbers.");
    keepKey(key);
    poll(0);
    showModels();
  });
  // A link cannot send the key.
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a.json");
    if (!link || !hasKey()) return;
    event.preventDefault();
    const text = await ask(link.href).then((response) => response.text(), (error) => error.message);
    open(URL.createObjectURL(new Blob([text], { type: "application/json" })));
  });
  $("forget").addEventListener("click", () => {
    keepKey("");
    location.reload();
  });
}

const live = (text) => set("live", state?.replay && text.startsWith("Live") ? "Replay" : text);

function take(news) {
  const first = !state;
  state = news;
  skew = news.now_ms - Date.now();
  if (first) route(false);
  else paint();
}

const now = () => Date.now() + skew;

// ---- overview

function overview({ activity, today, earnings, forecast, network, node, trouble, replay }) {
  const { reason } = activity;
  set("state", STATES[activity.state] || activity.state);
  set("reason", reason.text);
  const first = activity.state === "draining" ? ["what was begun is finished first"] : [];
  set("since", capital([...first, ...span(reason)].join(", ")));
  put($("mend"), prose((activity.state !== "working" && reason.mend) || ""));
  set("trouble", trouble ? `Trouble: ${trouble}` : "");
  $("pause").hidden = Boolean(replay);
  $("resume").disabled = !["paused_by_owner", "draining"].includes(activity.reason.code);
  set("earned", credits(today.earned_micro));
  set("trained", compact(today.tokens_trained));
  put($("answered"), { text: count(today.questions_answered), small: `and ${count(today.own_questions || 0)} of yours` });
  set("worked", duration(today.working_s));
  showDay();
  const why = activity.state === "working" ? "It takes part in no run that goes on." : reason.text;
  each($("what"), activity.what.length ? activity.what : [`Nothing at the moment. ${why}`], () => el("li"), set);
  showNetwork(network);
  dayBars($("days"), earnings, now());
  $("own-books").hidden = network.validators !== 1;
  set("forecast", replay ? "Earnings by day are not in the event log." : forecastSaid(forecast));
  pairs($("node"), [
    ["Key", node.key],
    ["Addresses", node.addresses.join(", ") || "none"],
    ["API", node.api],
    ["Data folder", node.data],
    ["Started", `${duration(node.uptime_s)} ago`],
  ]);
}

// Days before today are fetched when somebody wants to look at one.
const days = { all: [], chosen: null };

function wireDays() {
  $("day").addEventListener("focus", fetchDays);
  $("day").addEventListener("change", () => {
    days.chosen = $("day").value;
    showDay();
  });
}

async function fetchDays() {
  if (state?.replay) return;
  days.all = await get("/api/days").catch(() => days.all);
  showDay();
}

function showDay() {
  const { today } = state;
  const older = days.all.filter((day) => day.date !== today.date);
  each($("day"), [today, ...older], () => new Option(), (option, { date }, i) => {
    set(option, i ? date : "today");
    option.value = i ? date : "";
  });
  const day = older.find((one) => one.date === days.chosen) || today;
  $("day").value = day === today ? "" : day.date;
  const minutes = day.minutes.map(({ code, text, seconds: value }) => {
    return { code, text: capital(text), value, label: duration(value) };
  });
  shares($("minutes"), minutes, "Nothing was measured on that day yet.");
  const did = `${credits(day.earned_micro)} credits, ${compact(day.tokens_trained)} tokens trained`;
  set("day-said", day === today ? "" : `${did}, ${plural(day.questions_answered, "question")} of others answered.`);
}

function span({ since_ms: since, until_ms: until }) {
  const parts = [];
  if (since) parts.push(`for ${duration((now() - since) / 1000)}`);
  if (until) parts.push(`until ${clock(until, now())}`);
  return parts;
}

function showNetwork(network) {
  $("alone").hidden = !network.alone;
  $("network").hidden = network.alone;
  pairs($("network"), [
    ["Name", network.name],
    ["Validators", count(network.validators)],
    ["Height", count(network.height)],
    ["Peers", count(state.peers.length)],
    ["Chain", { text: short(network.chain), title: network.chain }],
  ]);
}

function forecastSaid(forecast) {
  if (!forecast) return "No forecast: too little was measured so far.";
  const [pace, error] = [credits(forecast.per_day_micro), percent(forecast.error_percent)];
  return `At this pace about ${pace} credits a day. So far such forecasts were wrong by ${error}; this is no promise.`;
}

// What is shown may be what was: then a slider goes through it.
function showReplay({ replay, now_ms: at }) {
  $("replay").hidden = !replay;
  if (!replay) return;
  const slider = $("moment");
  slider.max = replay.count - 1;
  if (document.activeElement !== slider) slider.value = replay.at;
  const said = stamp(at);
  set("moment-said", `${said}, event ${count(replay.at + 1)} of ${count(replay.count)}`);
  slider.setAttribute("aria-valuetext", said);
}

function wireReplay() {
  let going = false;
  $("moment").addEventListener("input", async () => {
    // One at a time; the last place counts.
    if (going) return;
    going = true;
    for (let at = null; at !== $("moment").value; ) {
      at = $("moment").value;
      await post("/api/replay", { at: Number(at) }).catch(() => null);
      const news = await get("/api/state").catch(() => null);
      if (news) take(news);
    }
    going = false;
  });
}

function wirePause() {
  for (const button of document.querySelectorAll("[data-pause]")) {
    button.addEventListener("click", () => order("/api/pause", { minutes: Number(button.dataset.pause) || null }));
  }
  $("resume").addEventListener("click", () => order("/api/resume", {}));
}

async function order(path, body) {
  set("pause-said", "");
  try {
    await post(path, body);
    take(await get("/api/state"));
  } catch (error) {
    set("pause-said", error.message);
  }
}

// ---- peers

function peers({ peers: all }) {
  $("no-peers").hidden = all.length > 0;
  $("some-peers").hidden = !all.length;
  const sorted = [...all].sort((a, b) => (a.key < b.key ? -1 : 1));
  set("peers-said", peersSaid(sorted));
  peerGraph($("graph"), sorted);
  rows($("peers"), sorted, (peer, i) => [
    count(i + 1),
    { text: short(peer.key), href: `#/ledger/${peer.key}`, title: peer.key },
    peer.kinds.join(", ") || "–",
    wayName(peer),
    delay(peer.rtt_ms),
    peer.address,
  ]);
}

// ---- serving

function serving({ serving: it, refused }) {
  const first = it.first_ms;
  const here = it.models.some((model) => model.local);
  pairs($("serving-figures"), [
    ["Questions asked from here", count(it.asked)],
    ["Being answered here now", count(it.now)],
    ["Tokens read", compact(it.tokens_in)],
    ["Tokens written", compact(it.tokens_out)],
    ["First token", first ? { text: `${count(first.p50)} ms`, small: `95 % within ${count(first.p95)} ms` } : "–"],
    ["Speed of an answer", { text: decimal(it.tokens_per_s, 1), small: it.tokens_per_s == null ? "" : "tokens/s" }],
  ]);
  const all = new Map(it.counts);
  const counts = Object.entries(OUTCOMES).map(([code, text]) => {
    const value = all.get(code) || 0;
    return { code, text, value, label: count(value) };
  });
  shares($("counts"), counts, here ? "Nobody has asked this machine yet." : "This machine serves no model.");
  rows($("models"), it.models, ({ name, local, providers, context, hash }) => [
    name,
    local ? "this machine" : "machines of others",
    count(providers),
    count(context),
    { text: short(hash), title: hash },
  ]);
  rows($("checks"), Object.entries(it.checks || {}), ([code, n]) => [verdict(code), count(n)]);
  // What was sent by others, for questions or for content.
  const others = it.counts.filter(([code]) => !(code in OUTCOMES));
  rows($("node-refused"), [...others, ...refused], ([code, n]) => [reject(code), count(n)]);
}

// ---- chat and settings

let offered = "";

// Models come and go while the page is open.
function showChat({ serving: { models }, replay }) {
  const names = models.map((model) => model.name).join("\n");
  if (names !== offered) showModels();
  offered = names;
  if (replay) set("chat-said", "This is a replay: nobody answers.");
}

function settings({ settings: { file, values }, replay }) {
  $("how").hidden = Boolean(replay);
  $("no-settings").hidden = !replay;
  set("file", file);
  const changed = values.filter((one) => one.value !== one.default);
  const [n, all] = [changed.length, plural(values.length, "value")];
  const differ = `${count(n)} of ${all} ${n === 1 ? "is" : "are"} not at the default:`;
  set("changed-said", n ? differ : `All ${all} are at their defaults.`);
  const item = () => el("li", {}, el("code"), el("small"));
  each($("changed"), changed, item, (line, { section, key, value, default: usual }) => {
    set(line.firstChild, `[${section}] ${key} = ${value}`);
    set(line.lastChild, `default: ${usual || "empty"}`);
  });
  const make = () => el("div", { class: "card" }, el("h2", {}, el("code")), el("dl", { class: "values" }));
  each($("settings"), [...grouped(values)], make, (card, [section, all]) => {
    set(card.firstChild.firstChild, `[${section}]`);
    each(card.lastChild, all, value, fillValue);
  });
}

function grouped(values) {
  const all = new Map();
  for (const one of values) all.set(one.section, [...(all.get(one.section) || []), one]);
  return all;
}

const value = () => el("div", {}, el("dt", {}, el("code"), el("span")), el("dd", {}, el("code"), el("small")));

function fillValue(line, { key, value, default: usual, help }) {
  set(line.firstChild.firstChild, key);
  put(line.firstChild.lastChild, prose(help));
  set(line.lastChild.firstChild, value || "empty");
  set(line.lastChild.lastChild, value === usual ? "default" : `changed; default: ${usual || "empty"}`);
  line.classList.toggle("changed", value !== usual);
}

start();
