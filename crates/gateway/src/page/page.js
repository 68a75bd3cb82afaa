// The page of a node: its views, and the state that they show.

import { dayBars, lineChart, peerGraph, peersSaid, shares, way } from "./charts.js";
import { showModels, startChat } from "./chat.js";
import {
  $, bytes, capital, clock, compact, count, credits, decimal, delay, duration, each, el, get, pairs, percent, plural, post, rows, set, short, stamp,
} from "./format.js";

const PAGE = 20;
const POLL = 5000;
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
  for (const wire of [wirePause, wireReplay, wireTraining, wireLedger, startChat]) wire();
  // What is drawn at a width is drawn again at another, and what is told of time goes on.
  addEventListener("resize", paint);
  setInterval(() => document.hidden || paint(), 15000);
  route(false);
  if (!document.hidden) poll(0);
}

// ---- views

function route(move) {
  const [, name, rest] = location.hash.split("/");
  const before = view;
  view = name in views ? name : "overview";
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${capital(view)} – talkoo`;
  // Another account is no other view.
  if (move && (view !== before || !rest)) {
    scrollTo(0, 0);
    heading().focus({ preventScroll: true });
  }
  if (view === "ledger") openLedger(rest);
  if (view === "training" && rest) run.chosen = rest;
  if (view === "chat") showModels();
  paint();
}

const heading = () => document.querySelector(`[data-view=${view}] h1`);

function paint() {
  if (!state) return;
  shell();
  const body = document.querySelector(`[data-view=${view}] > [data-body]`);
  // The ledger waits for its blocks, so that nothing is pushed away by them.
  if (body) body.hidden = view === "ledger" && !pages.ready;
  views[view](state);
}

function shell() {
  const { activity, node, network } = state;
  for (const dot of document.querySelectorAll("[data-dot]")) dot.dataset.dot = state.trouble ? "trouble" : activity.state;
  set("shell-state", STATES[activity.state] || activity.state);
  set("version", `talkoo ${state.version}`);
  $("version").title = `${network.name}, ${node.key}`;
  showReplay(state);
}

// ---- the state, live

let stream = null;
let timer = null;

function hush() {
  clearTimeout(timer);
  stream?.close();
  stream = null;
}

// Asks once, then listens; whatever fails is asked for again.
async function poll(wait) {
  hush();
  const news = await get("/api/state").catch(() => null);
  set("live", !news ? "Connection lost, retrying" : wait ? "Live, every 5 s" : "Live");
  if (!document.hidden) timer = news ? setTimeout(listen, wait) : setTimeout(poll, POLL, 0);
  if (news) take(news);
}

function listen() {
  hush();
  stream = new EventSource("/api/events");
  stream.addEventListener("open", () => set("live", "Live"));
  stream.addEventListener("state", (event) => take(JSON.parse(event.data)));
  stream.addEventListener("error", () => poll(POLL));
}

function take(news) {
  state = news;
  skew = news.now_ms - Date.now();
  paint();
}

const now = () => Date.now() + skew;

// ---- overview

function overview({ activity, today, earnings, forecast, network, node, trouble }) {
  const { reason } = activity;
  set("state", STATES[activity.state] || activity.state);
  set("reason", reason.text);
  set("since", capital([activity.state === "draining" && "what was begun is finished first", ...span(reason)].filter(Boolean).join(", ")));
  set("trouble", trouble ? `Trouble: ${trouble}` : "");
  $("resume").disabled = !["paused_by_owner", "draining"].includes(activity.reason.code);
  set("earned", credits(today.earned_micro));
  set("trained", compact(today.tokens_trained));
  set("answered", count(today.questions_answered));
  set("worked", duration(today.working_s));
  const minutes = today.minutes.map(({ code, text, seconds }) => ({ code, text, value: seconds, label: duration(seconds) }));
  shares($("minutes"), minutes, "Nothing was measured today yet.");
  each($("what"), activity.what.length ? activity.what : ["Nothing at the moment"], () => el("li"), (line, text) => set(line, capital(text)));
  showNetwork(network);
  dayBars($("days"), earnings, now());
  set("forecast", forecastSaid(forecast));
  pairs($("node"), [
    ["Key", node.key],
    ["Addresses", node.addresses.join(", ") || "none"],
    ["API", node.api],
    ["Data folder", node.data],
    ["Started", `${duration(node.uptime_s)} ago`],
  ]);
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
    ["Chain", short(network.chain)],
  ]);
}

function forecastSaid(forecast) {
  if (!forecast) return "No forecast: too little was measured so far.";
  const error = percent(forecast.error_percent);
  return `At this pace about ${credits(forecast.per_day_micro)} credits a day. So far such forecasts were wrong by ${error}; this is no promise.`;
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

// ---- training

const run = { chosen: null, asked: null, shown: null, at: 0, busy: false, charts: {}, sample: null };

function wireTraining() {
  for (const name of ["loss", "heldout", "busy", "bytes"]) run.charts[name] = lineChart($(`chart-${name}`));
  $("run-select").addEventListener("change", () => {
    run.chosen = $("run-select").value;
    paint();
  });
  for (const radio of document.querySelectorAll("[name=axis]")) radio.addEventListener("change", () => run.shown && drawCharts(run.shown));
  $("smooth").addEventListener("input", () => {
    set("smooth-value", Number($("smooth").value).toFixed(2));
    if (run.shown) drawCharts(run.shown);
  });
  $("sample").addEventListener("input", () => {
    const at = Number($("sample").value);
    run.sample = at === Number($("sample").max) ? null : at;
    showSample(run.shown.samples);
  });
}

function training({ runs, node }) {
  $("no-run").hidden = runs.length > 0;
  $("run-pick").hidden = runs.length < 2;
  if (!runs.length) return ($("run").hidden = true);
  const line = runs.find((one) => one.run === run.chosen) || runs.find((one) => !one.ended) || runs[0];
  offerRuns(runs, line.run);
  const path = `/api/runs/${line.run}`;
  if ($("run-json").getAttribute("href") !== path) $("run-json").setAttribute("href", path);
  if (run.shown?.run === line.run) showRun(line, run.shown, node.key);
  fetchRun(line, path);
}

function offerRuns(runs, chosen) {
  each($("run-select"), runs, () => new Option(), (option, { run: id, name, ended }) => {
    set(option, `${name}${ended ? " (ended)" : ""}`);
    option.value = id;
  });
  if (document.activeElement !== $("run-select")) $("run-select").value = chosen;
}

// A run may have thousands of rounds: it is fetched when a round closed, and now and then for its members.
async function fetchRun(line, path) {
  const same = run.shown?.run === line.run;
  const late = same && run.shown.version === line.version ? 10000 : 2000;
  if (run.busy || (run.asked === line.run && Date.now() - run.at < late)) return;
  [run.busy, run.asked] = [true, line.run];
  const news = await get(path).catch(() => null);
  [run.busy, run.at] = [false, Date.now()];
  if (news) {
    if (!same) run.sample = null;
    run.shown = { ...news, run: line.run };
    drawCharts(run.shown);
  }
  if (view === "training") paint();
}

function showRun(line, full, own) {
  $("run").hidden = false;
  const [done, all] = line.tokens;
  set("run-name", line.name);
  set("run-waiting", line.ended ? "This run has all its tokens." : `This node: ${line.waiting}`);
  $("run-progress").value = all ? done / all : 0;
  set("run-tokens", `${compact(done)} of ${compact(all)} tokens, ${percent(all ? (100 * done) / all : 0)}`);
  set("run-trouble", line.trouble ? `Trouble: ${line.trouble}` : "");
  const sent = full.rounds.reduce((total, round) => total + round.update_bytes, 0);
  pairs($("run-figures"), [
    ["Loss", decimal(line.loss, 3)],
    ["Held out", { text: decimal(line.heldout, 3), small: line.heldout == null ? "" : "bits per byte" }],
    ["Closed rounds", count(line.version)],
    ["Speed", { text: compact(Math.round(line.tokens_per_s)), small: "tokens/s" }],
    ["Members", { text: count(line.active), small: `active of ${count(line.members)}` }],
    ["Trainer busy", percent(full.utilisation)],
    ["Own updates sent", { text: bytes(sent), small: `${full.bits_per_parameter.toFixed(2)} bits per parameter` }],
    ["Model", { text: compact(line.params), small: `parameters, ${line.mode} mode` }],
  ]);
  showMembers(full.members, own);
  rows($("refused"), refusals(full), ([reason, n]) => [reason, count(n)]);
  showSample(full.samples);
}

function showMembers(members, own) {
  rows($("members"), members, (one) => [
    { text: short(one.node) + (one.node === own ? " (this node)" : ""), href: `#/ledger/${one.node}`, title: one.node },
    one.status, one.speed.toFixed(2), count(one.planned), count(one.units), count(one.missed), compact(one.tokens), one.loss ? one.loss.toFixed(3) : "–",
  ]);
}

function refusals({ refused, rounds }) {
  const left = rounds.reduce((total, round) => total + round.left_out, 0);
  const voids = rounds.filter((round) => round.void).length;
  const own = [["updates left out of a set", left], ["rounds without a quorum (void)", voids]].filter(([, n]) => n);
  return [...refused.map(([reason, n]) => [`refused: ${reason}`, n]), ...own];
}

function showSample(samples) {
  $("samples-some").hidden = !samples.length;
  $("samples-none").hidden = samples.length > 0;
  if (!samples.length) return;
  const last = samples.length - 1;
  const at = Math.min(run.sample ?? last, last);
  $("sample").max = last;
  $("sample").value = at;
  $("sample").setAttribute("aria-valuetext", `version ${samples[at].version}`);
  set("sample-value", `${count(samples[at].version)} (${at + 1} of ${samples.length})`);
  set("sample-text", samples[at].text);
}

function drawCharts(full) {
  const axis = document.querySelector("[name=axis]:checked").value;
  const smooth = Number($("smooth").value);
  const x = axisOf(axis, full);
  // All charts end at the same round.
  x.last = Math.max(...x.round.values());
  const of = (rounds, value) => rounds.map((round) => [x.round.get(round.round), value(round)]);
  // A round without a reported loss, or without a unit of this node, is no measurement.
  const loss = of(full.rounds.filter((round) => round.loss > 0 && !round.void), (round) => round.loss);
  const busy = of(full.rounds.filter((round) => round.utilisation > 0), (round) => round.utilisation);
  const sent = of(full.rounds.filter((round) => round.update_bytes > 0), (round) => round.update_bytes);
  const heldout = full.heldout.filter(([version]) => x.round.has(version)).map(([version, bits]) => [x.round.get(version), bits]);
  run.charts.loss({ name: "Loss", points: loss, smooth, x, y: plain(3) });
  run.charts.heldout({ name: "Held-out bits per byte", points: heldout, smooth: 0, x, y: plain(3) });
  run.charts.busy({ name: "Trainer busy", points: busy, smooth, x, y: { text: percent, tick: (value) => count(value) } });
  run.charts.bytes({ name: "Bytes of own updates", points: sent, smooth, x, y: { text: bytes, tick: bytes } });
}

const plain = (places) => ({ text: (value) => value.toFixed(places), tick: fixed });
const fixed = (value, step) => value.toFixed(Math.max(0, -Math.floor(Math.log10(step))));

// Where each round stands on the axis.
function axisOf(kind, { rounds }) {
  if (kind === "tokens") {
    const places = rounds.map((round) => [round.round, round.total]);
    return { name: "tokens", tick: compact, text: (value) => `${compact(value)} tokens`, round: new Map([[0, 0], ...places]) };
  }
  if (kind === "time") return timeAxis(rounds);
  const places = rounds.map(({ round }) => [round, round]);
  return { name: "rounds", least: 1, tick: compact, text: (value) => `round ${count(value)}`, round: new Map([[0, 0], ...places]) };
}

function timeAxis(rounds) {
  let passed = 0;
  const places = rounds.map((round) => [round.round, (passed += round.took_ms / 1000)]);
  const [unit, name] = passed > 259200 ? [86400, "days"] : passed > 7200 ? [3600, "hours"] : passed > 180 ? [60, "minutes"] : [1, "seconds"];
  const map = new Map([[0, 0], ...places].map(([round, seconds]) => [round, seconds / unit]));
  return { name: `${name} of rounds`, tick: fixed, text: (value) => `after ${duration(value * unit)}`, round: map };
}

// ---- peers

function peers({ peers: all }) {
  const sorted = [...all].sort((a, b) => (a.key < b.key ? -1 : 1));
  set("peers-said", peersSaid(sorted));
  peerGraph($("graph"), sorted);
  rows($("peers"), sorted, (peer, i) => [
    count(i + 1),
    { text: short(peer.key), href: `#/ledger/${peer.key}`, title: peer.key },
    peer.kinds.join(", ") || "–",
    way(peer),
    delay(peer.rtt_ms),
    peer.address,
  ]);
}

// ---- serving

function serving({ serving: it, refused }) {
  const first = it.first_ms;
  pairs($("serving-figures"), [
    ["Questions", count(it.asked)],
    ["Being answered now", count(it.now)],
    ["Tokens read", compact(it.tokens_in)],
    ["Tokens written", compact(it.tokens_out)],
    ["First token", { text: first ? `${count(first.p50)} ms` : "–", small: first ? `95 % within ${count(first.p95)} ms` : "" }],
    ["Rate", { text: decimal(it.tokens_per_s, 1), small: it.tokens_per_s == null ? "" : "tokens/s" }],
  ]);
  const counts = it.counts.map(([code, n]) => ({ code, text: capital(code.replaceAll("_", " ")), value: n, label: count(n) }));
  shares($("counts"), counts, "Nothing was asked yet.");
  rows($("models"), it.models, (model) => [
    model.name, model.local ? "this machine" : "machines of others", count(model.providers), count(model.context), { text: short(model.hash), title: model.hash },
  ]);
  rows($("node-refused"), refused, ([reason, n]) => [reason, count(n)]);
}

// ---- ledger

const pages = { before: [null], last: null, height: null, ready: false };

function wireLedger() {
  $("lookup").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = $("key").value.trim().toLowerCase();
    // The same key again is no change of place.
    if (location.hash === `#/ledger/${key}`) lookUp(key);
    else location.hash = `#/ledger/${key}`;
  });
  $("newest").addEventListener("click", () => turn([null]));
  $("newer").addEventListener("click", () => turn(pages.before.slice(0, -1)));
  $("older").addEventListener("click", () => turn([...pages.before, pages.last]));
}

function openLedger(key) {
  if (pages.before.length === 1) turn([null]);
  if (!key) return;
  $("key").value = key;
  $("lookup-card").scrollIntoView({ block: "nearest" });
  lookUp(key);
}

function ledger({ account, network, earnings }) {
  const own = network.validators === 1;
  set("books", own
    ? "This network has one validator: these are its owner’s own books, and the credits in them are the owner’s to hand out."
    : `${plural(network.validators, "validator")} put these blocks in order; what is final stays final unless more than a third of them lie together.`);
  pairs($("own"), purse(account).map(([name, micro]) => [name, { text: credits(micro), small: "credits" }]));
  const fresh = pages.height == null ? 0 : network.height - pages.height;
  set("newest", fresh > 0 ? `Newest (${count(fresh)} new)` : "Newest");
  rows($("earnings"), [...earnings].sort((a, b) => (a.day < b.day ? 1 : -1)), ({ day, model, kind, micro }) => [day, model, kind, (micro / 1e6).toFixed(6)]);
}

const purse = ({ balance_micro, bond_micro, deposit_micro, locked_micro }) => [
  ["Balance", balance_micro], ["Bond", bond_micro], ["Deposit", deposit_micro], ["Locked", locked_micro],
];

// Blocks stay as they are while somebody reads them: new ones are announced on the button.
async function turn(before) {
  const path = `/api/blocks?${before.at(-1) == null ? "" : `before=${before.at(-1)}&`}count=${PAGE}`;
  $("ledger-json").setAttribute("href", path);
  try {
    const { blocks } = await get(path);
    if (!blocks.length && before.length > 1) return ($("older").disabled = true);
    pages.before = before;
    if (before.length === 1) pages.height = blocks[0]?.height ?? null;
    pages.last = blocks.at(-1)?.height;
    $("newer").disabled = before.length === 1;
    $("older").disabled = blocks.length < PAGE || pages.last <= 0;
    rows($("blocks"), blocks, (block) => [
      count(block.height), { list: block.transactions.map(transaction) }, stamp(block.time_ms), { text: short(block.hash), title: `Block ${block.hash}, root ${block.root}` },
    ]);
  } catch (error) {
    set("lookup-said", error.message);
  }
  pages.ready = true;
  paint();
}

const transaction = ({ hash, kind, by }) => ({ text: `${kind.replaceAll("_", " ")} by ${short(by)}`, href: `#/ledger/${by}`, title: `Transaction ${hash}, by ${by}` });

async function lookUp(key) {
  set("lookup-said", "");
  $("account").replaceChildren();
  if (!/^[0-9a-f]{64}$/.test(key)) return set("lookup-said", "A key has 64 hexadecimal digits.");
  try {
    const account = await get(`/api/accounts/${key}`);
    pairs($("account"), [["Key", account.key], ...purse(account).map(([name, micro]) => [name, `${credits(micro)} credits`]), ["Transactions sent", count(account.nonce)]]);
    if (key === state?.node.key) set("lookup-said", "This is this node’s own account.");
  } catch (error) {
    set("lookup-said", error.message);
  }
}

// ---- chat and settings

let offered = "";

// Models come and go while the page is open.
function showChat({ serving: { models } }) {
  const names = models.map((model) => model.name).join("\n");
  if (names !== offered) showModels();
  offered = names;
}

function settings({ settings: { file, values } }) {
  set("file", file);
  const sections = grouped(values);
  const make = () => el("div", { class: "card" }, el("h2", {}, el("code")), el("dl", { class: "values" }));
  each($("settings"), [...sections], make, (card, [section, all]) => {
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
  set(line.firstChild.lastChild, help);
  set(line.lastChild.firstChild, value || "empty");
  set(line.lastChild.lastChild, value === usual ? "default" : `default: ${usual || "empty"}`);
  line.classList.toggle("changed", value !== usual);
}

start();
