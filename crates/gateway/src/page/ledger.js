// The ledger's view: blocks and accounts, and the way from one to the other and back.

import { $, capital, count, credits, each, get, pairs, plural, put, rows, set, short, stamp } from "./format.js";

const PAGE = 20;
// Lines of a block in the list; its own card has all of them.
const LINES = 6;

const pages = { before: [null], blocks: [], height: null, ready: false };
let state = null;
let paint = null;
let asked = 0;

export const ledgerIsThere = () => pages.ready;

export function startLedger(repaint) {
  paint = repaint;
  $("lookup").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("key").value.trim().toLowerCase();
    const place = /^\d{1,15}$/.test(text) ? ["block", String(Number(text))] : [text];
    const hash = `#/ledger/${place.join("/")}`;
    // The same again is no change of place.
    if (location.hash === hash) open(place, null);
    else location.hash = hash;
  });
  $("newest").addEventListener("click", () => turn([null]));
  $("newer").addEventListener("click", () => turn(pages.before.slice(0, -1)));
  $("older").addEventListener("click", () => turn([...pages.before, pages.blocks.at(-1).height]));
}

// `way` is null where nobody moved, else { entered, back, focus }: whether it was another view before, where the way
// back leads, and who gives the focus to what is shown.
export async function openLedger(news, place, way) {
  state = news;
  if (!state.replay && (!way || way.entered) && pages.before.length === 1) await turn([null]);
  await open(state.replay ? [] : place, way);
}

async function open([kind, rest], way) {
  const mine = ++asked;
  set("lookup-said", "");
  if (kind) $("key").value = rest ?? kind;
  let shown = null, wrong = null;
  try {
    if (kind) shown = kind === "block" ? await block(Number(rest)) : await account(kind);
  } catch (error) {
    wrong = error;
  }
  // Who has gone on meanwhile is not taken back.
  if (mine !== asked) return;
  if (shown) (kind === "block" ? showBlock : showAccount)(shown);
  $("found").hidden = !shown;
  if (wrong) set("lookup-said", wrong.message);
  if (way) {
    set("found-back", `Back to ${called(way.back)}`);
    $("found-back").href = way.back || "#/ledger";
  }
  pages.ready = true;
  paint();
  way?.focus(shown ? $("found-title") : wrong ? $("key") : null);
}

// Where the way back leads.
function called(hash) {
  const [, view = "", kind, height] = (hash || "#/ledger").split("/");
  if (view !== "ledger") return view || "overview";
  return !kind ? "the blocks" : kind === "block" ? `block ${count(height)}` : `account ${short(kind)}`;
}

async function block(height) {
  if (!Number.isSafeInteger(height) || height < 1) throw new Error("Blocks are numbered from 1.");
  const { blocks, newest } = await get(`/api/blocks?before=${height + 1}&count=1`);
  if (blocks[0]?.height === height) return blocks[0];
  throw new Error(`This node has no block ${count(height)}; the newest is ${count(newest)}.`);
}

async function account(key) {
  if (!/^[0-9a-f]{64}$/.test(key)) throw new Error("A key has 64 hexadecimal digits; a block has a number.");
  return get(`/api/accounts/${key}`);
}

function showBlock(block) {
  set("found-title", `Block ${count(block.height)}`);
  const parent = block.height > 1 ? { text: block.parent, href: `#/ledger/block/${block.height - 1}` } : block.parent;
  pairs($("found-facts"), [
    ["Hash", block.hash],
    ["Parent", parent],
    ["State root", block.root],
    ["Time", stamp(block.time_ms)],
    ["Epoch", count(block.epoch)],
    ["Proposed by", block.by],
    ["Final by", block.certified ? "its own certificate" : "the certificate of a later block"],
  ]);
  set("found-what", plural(block.transactions.length, "transaction"));
  $("found-what").hidden = false;
  each($("found-lines"), lines(block, true), () => document.createElement("li"), put);
}

function showAccount(account) {
  const own = account.key === state?.node.key;
  set("found-title", `Account ${short(account.key)}${own ? ", this node’s own" : ""}`);
  const all = [...purse(account), ["Unbonding", account.unbonding_micro]];
  const amounts = all.map(([name, micro]) => [name, `${credits(micro)} credits`]);
  pairs($("found-facts"), [["Key", account.key], ...amounts, ["Transactions sent", count(account.transactions)]]);
  $("found-what").hidden = true;
  $("found-lines").replaceChildren();
}

export function ledger(news) {
  state = news;
  const { account, network, earnings, replay } = news;
  $("chain").hidden = Boolean(replay);
  set("books", books(network, replay));
  const unbonding = ["Unbonding", account.unbonding_micro, "free after the delay"];
  const own = account.unbonding_micro ? [...purse(account), unbonding] : purse(account);
  pairs($("own"), own.map(([name, micro, what]) => [name, { text: credits(micro), small: what }]));
  const fresh = pages.height == null ? 0 : network.height - pages.height;
  set("newest", fresh > 0 ? `Newest (${count(fresh)} new)` : "Newest");
  rows($("blocks"), pages.blocks, (block) => [
    { text: count(block.height), href: `#/ledger/block/${block.height}`, title: `Block ${block.hash}` },
    { list: lines(block, false) },
    stamp(block.time_ms),
  ]);
  const days = [...earnings].sort((a, b) => (a.day < b.day ? 1 : -1));
  rows($("earnings"), days, ({ day, model, kind, device, micro }) => [day, model, kind, device, (micro / 1e6).toFixed(6)]);
}

function books({ validators }, replay) {
  if (replay) return "A replay shows what the account held; its event log has no blocks, other accounts or earnings.";
  if (validators === 1) {
    return "This network has one validator: these are its owner’s own books, and the owner’s credits to hand out.";
  }
  const all = plural(validators, "validator");
  return `${all} put these blocks in order; what is final stays final unless more than a third of them lie together.`;
}

const purse = ({ balance_micro, bond_micro, deposit_micro, locked_micro }) => [
  ["Balance", balance_micro, "credits, free"],
  ["Bond", bond_micro, "credits, stand for good conduct"],
  ["Deposit", deposit_micro, "credits, set aside to ask others"],
  ["Locked", locked_micro, "credits, earned but still audited"],
];

// Blocks stay as they are while somebody reads them: new ones are announced on the button.
async function turn(before) {
  const path = `/api/blocks?${before.at(-1) == null ? "" : `before=${before.at(-1)}&`}count=${PAGE}`;
  $("ledger-json").setAttribute("href", path);
  try {
    const { blocks } = await get(path);
    if (!blocks.length && before.length > 1) return ($("older").disabled = true);
    pages.before = before;
    pages.blocks = blocks;
    if (before.length === 1) pages.height = blocks[0]?.height ?? null;
    $("newer").disabled = before.length === 1;
    $("older").disabled = !(blocks.at(-1)?.height > 1);
  } catch (error) {
    set("lookup-said", error.message);
  }
  paint();
}

// What a block holds, a line for each: all of it, or the first few.
function lines({ height, transactions, happened = [] }, whole) {
  const named = ({ hash }) => (whole && hash ? [" ", { text: short(hash), title: `Transaction ${hash}` }] : []);
  const all = [...transactions, ...happened].map((deed) => [...sentence(deed, whole), ...named(deed)]);
  if (!all.length) all.push([{ text: "no transactions" }]);
  if (!whole && all.length > LINES) {
    const rest = all.splice(LINES - 1).length;
    all.push([{ text: `and ${count(rest)} more`, href: `#/ledger/block/${height}` }]);
  }
  return all.map((line) => ({ line }));
}

// A sentence in which keys lead to their accounts.
function sentence({ by, to, from, parts = [], text }, whole) {
  const keys = new Map([to, from].filter(Boolean).map((key) => [key.slice(0, 8), key]));
  const words = text.split(/\b([0-9a-f]{8})\b/).map((word) => (keys.has(word) ? person(keys.get(word)) : word));
  const part = ({ to, amount_micro }, i) => [i ? ", " : ": ", person(to), ` ${credits(amount_micro)}`];
  const signer = by ? [{ ...person(by), text: capital(person(by).text) }, " "] : [];
  return [...signer, ...words, ...(whole ? parts.flatMap(part) : [])];
}

function person(key) {
  return { text: key === state.node.key ? "this node" : short(key), href: `#/ledger/${key}`, title: `Account ${key}` };
}
