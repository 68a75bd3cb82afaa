// The training view: one run, its curves, its members, and what its model wrote.

import { lineChart } from "./charts.js";
import { $, bytes, compact, count, credits, decimal, duration, each, get, pairs, percent, prose, rows, set, short } from "./format.js";
import { reject } from "./words.js";

const run = { chosen: null, asked: null, shown: null, at: 0, busy: false, again: null, charts: {}, sample: null };
let paint = null;

export function startTraining(repaint) {
  paint = repaint;
  for (const name of ["loss", "heldout", "busy", "bytes"]) run.charts[name] = lineChart($(`chart-${name}`));
  $("run-select").addEventListener("change", () => {
    run.chosen = $("run-select").value;
    paint();
  });
  const draw = () => run.shown && drawCharts(run.shown);
  for (const radio of document.querySelectorAll("[name=axis]")) radio.addEventListener("change", draw);
  $("smooth").addEventListener("input", () => {
    set("smooth-value", Number($("smooth").value).toFixed(2));
    draw();
  });
  $("sample").addEventListener("input", () => {
    const at = Number($("sample").value);
    run.sample = at === Number($("sample").max) ? null : at;
    showSample(run.shown.samples);
  });
}

export function choose(id) {
  run.chosen = id;
}

export function training({ runs, node, replay }) {
  // An event log has a line for a run, not its members and samples.
  $("members").dataset.none = replay ? "Not in the event log." : "It has no members.";
  $("units").dataset.none = replay ? "Not in the event log." : "None yet: it is told when a round closes.";
  $("refused").dataset.none = replay ? "Not in the event log." : "Nothing was refused or left out.";
  set("samples-none", replay ? "Not in the event log." : "No samples yet: one is written with each checkpoint.");
  $("no-run").hidden = runs.length > 0;
  $("run-pick").hidden = runs.length < 2;
  if (!runs.length) return ($("run").hidden = true);
  const line = runs.find((one) => one.run === run.chosen) || runs.find((one) => !one.ended) || runs[0];
  offerRuns(runs, line.run);
  const path = `/api/runs/${line.run}`;
  if ($("run-json").getAttribute("href") !== path) $("run-json").setAttribute("href", path);
  if (run.shown?.run === line.run) showRun(line, run.shown, node.key, replay);
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
  const wait = run.asked === line.run ? run.at + late - Date.now() : 0;
  clearTimeout(run.again);
  // Who does not look asks nothing; who looks again is shown everything anew.
  if (run.busy || document.hidden) return;
  if (wait > 0) return (run.again = setTimeout(paint, wait));
  [run.busy, run.asked] = [true, line.run];
  const news = await get(path).catch(() => null);
  [run.busy, run.at] = [false, Date.now()];
  if (news) {
    if (!same) run.sample = null;
    run.shown = { ...news, run: line.run };
    drawCharts(run.shown);
  }
  paint();
}

function showRun(line, full, own, replay) {
  $("run").hidden = false;
  const [done, all] = line.tokens;
  set("run-name", line.name);
  set("run-model", `${compact(line.params)} parameters, ${line.mode} mode`);
  set("run-waiting", line.ended ? "This run has all its tokens." : `This node: ${line.waiting}`);
  $("run-progress").value = all ? done / all : 0;
  // The last round may go a little beyond the end.
  const part = percent(all ? Math.min(100, (100 * done) / all) : 0);
  set("run-tokens", `${compact(done)} of ${compact(all)} tokens, ${part}`);
  set("run-trouble", line.trouble ? `Trouble: ${line.trouble}` : "");
  const sent = full.rounds.reduce((total, round) => total + round.update_bytes, 0);
  const density = full.bits_per_parameter.toFixed(2);
  pairs($("run-figures"), [
    ["Loss", decimal(line.loss, 3)],
    ["Held out", { text: decimal(line.heldout, 3), small: line.heldout == null ? "" : "bits per byte" }],
    ["Closed rounds", count(line.version)],
    ["Speed", { text: compact(Math.round(line.tokens_per_s)), small: "tokens/s" }],
    ["Members", { text: count(line.active), small: `active of ${count(line.members)}` }],
    ["Trainer busy", replay ? "–" : percent(full.utilisation)],
    ["Own updates sent", { text: replay ? "–" : bytes(sent), small: sent ? `${density} bits per parameter` : "" }],
    ["Earned here", full.pay ? { text: credits(full.pay.own.earned_micro), small: "credits" } : "–"],
  ]);
  showMembers(full.members, own, full.pay);
  showPay(full.pay, line.ended);
  rows($("refused"), refusals(full), ([reason, n]) => [reason, count(n)]);
  showSample(full.samples);
}

function showPay(pay, ended) {
  set("pay-said", pay ? paySaid(pay, ended) : "");
  const unpaid = pay ? pay.own.unpaid.map(({ text, mend, units }) => [`Not paid. ${text} ${mend || ""}`, units]) : [];
  const all = pay ? [["Paid.", pay.own.units_paid], ...unpaid].filter(([, units]) => units) : [];
  rows($("units"), all, ([why, units]) => [prose(why.trim()), count(units)]);
}

function paySaid({ budget_micro: budget, admitted_permille: admitted, paid_micro: paid, own }, ended) {
  const parts = [`${credits(paid)} credits were paid to its members since this node takes part`];
  if (!ended) parts.push(budget ? `${credits(budget)} are left in its budget` : "its budget is empty");
  if (!ended && admitted) parts.push(`it may get ${percent(admitted / 10)} of the new credits of its owner’s own books`);
  if (own.funded_micro) parts.push(`${credits(own.funded_micro)} came from here, of which ${credits(own.back_micro)} came back and are not earned`);
  return `${parts.join("; ")}.`;
}

function showMembers(members, own, pay) {
  rows($("members"), members, (one) => [
    { text: short(one.node) + (one.node === own ? " (this node)" : ""), href: `#/ledger/${one.node}`, title: one.node },
    one.aside_until ? `${one.status}, sits out until round ${count(one.aside_until)}` : one.status,
    one.speed.toFixed(2),
    count(one.planned),
    count(one.units),
    count(one.missed),
    compact(one.tokens),
    one.loss ? one.loss.toFixed(3) : "–",
    pay ? credits(pay.members[one.node] || 0) : "–",
  ]);
}

function refusals({ refused, rounds }) {
  const left = rounds.reduce((total, round) => total + round.left_out, 0);
  const voids = rounds.filter((round) => round.void).length;
  const own = [
    ["Updates were left out of a round’s set.", left],
    ["Rounds had no quorum and changed nothing.", voids],
  ];
  return [...refused.map(([code, n]) => [`Refused. ${reject(code)}`, n]), ...own.filter(([, n]) => n)];
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
  // Models like to begin with empty lines.
  set("sample-text", samples[at].text.replace(/^\s*\n/, ""));
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
  // A unit that came too late was computed in the rounds before, too.
  const busy = of(full.rounds.filter((round) => round.utilisation > 0), (round) => Math.min(100, round.utilisation));
  const sent = of(full.rounds.filter((round) => round.update_bytes > 0), (round) => round.update_bytes);
  // Weights of a version are those after the round before it.
  const known = full.heldout.filter(([version]) => x.round.has(version - 1));
  const heldout = known.map(([version, bits]) => [x.round.get(version - 1), bits]);
  const none = missing(full);
  run.charts.loss({ name: "Loss", points: loss, smooth, x, y: plain(3), none: none.loss });
  run.charts.heldout({ name: "Held out", points: heldout, smooth: 0, x, y: plain(3), none: none.heldout });
  const parts = { text: percent, tick: fixed };
  run.charts.busy({ name: "Trainer busy", points: busy, smooth, x, y: parts, none: none.busy });
  run.charts.bytes({ name: "Own updates", points: sent, smooth, x, y: { text: bytes, tick: bytes }, none: none.bytes });
}

// Why a chart is empty.
function missing({ rounds, members }) {
  const recorded = rounds.length > 0 && !members.length;
  const sent = members.length === 1 ? "A member alone has nobody to send to" : "Nothing was sent yet";
  return {
    loss: "No round has closed yet",
    heldout: "Not measured yet: it comes with a checkpoint",
    busy: recorded ? "Not in the event log" : "No round with work of this node yet",
    bytes: recorded ? "Not in the event log" : sent,
  };
}

const plain = (places) => ({ text: (value) => value.toFixed(places), tick: fixed });
const fixed = (value, step) => value.toFixed(Math.max(0, -Math.floor(Math.log10(step))));

// Where each round stands on the axis.
function axisOf(kind, { rounds }) {
  if (kind === "tokens") {
    const places = rounds.map((round) => [round.round, round.total]);
    const text = (value) => `${compact(value)} tokens`;
    return { name: "tokens", tick: compact, text, round: new Map([[0, 0], ...places]) };
  }
  if (kind === "time") return timeAxis(rounds);
  const places = rounds.map(({ round }) => [round, round]);
  const text = (value) => `round ${count(value)}`;
  return { name: "rounds", least: 1, tick: compact, text, round: new Map([[0, 0], ...places]) };
}

function timeAxis(rounds) {
  let passed = 0;
  const places = rounds.map((round) => [round.round, (passed += round.took_ms / 1000)]);
  const units = [[259200, 86400, "days"], [7200, 3600, "hours"], [180, 60, "minutes"], [-1, 1, "seconds"]];
  const [, unit, name] = units.find(([least]) => passed > least);
  const map = new Map([[0, 0], ...places].map(([round, seconds]) => [round, seconds / unit]));
  return { name: `${name} of rounds`, tick: fixed, text: (value) => `after ${duration(value * unit)}`, round: map };
}
