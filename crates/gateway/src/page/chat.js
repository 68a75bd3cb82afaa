// Questions to the models of this origin, over the same API that every client uses.

import { $, credits, el, events, get, pairs, plural, send, set, short } from "./format.js";

const said = [];
// The model that heard what was said.
let heard = "";
let running = null;
let known = null;

// Models of other machines are called so.
const isOthers = (name) => name.startsWith("net/");

export function startChat() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) return running.abort();
    const text = $("text").value.trim();
    if (!text || $("send").disabled) return;
    $("text").value = "";
    ask($("model").value, text);
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) $("ask").requestSubmit();
  });
  $("model").addEventListener("change", chosen);
}

export async function showModels() {
  try {
    const names = ((await get("/v1/models")).data || []).map((model) => model.id);
    if (known && names.join("\n") === known.join("\n")) return;
    known = names;
    offer(names);
  } catch (error) {
    set("chat-said", error.message);
  }
}

// What was chosen stays chosen, also while it is gone: another model is another machine, perhaps. Machines of others are
// asked by those only who choose them, or list their names in `[ask] for_names`.
function offer(names) {
  const before = $("model").value;
  const first = before || names.find((name) => !isOthers(name)) || "";
  const missing = first && !names.includes(first) ? [[`${first} (not loaded)`, first]] : [];
  const none = first ? [] : [[names.length ? "choose a model" : "none is served", ""]];
  const options = [...none, ...missing, ...names.map((name) => [name, name])];
  $("model").replaceChildren(...options.map(([label, name]) => new Option(label, name, false, name === first)));
  $("model").disabled = !names.length;
  chosen();
}

function chosen() {
  const name = $("model").value;
  const there = known.includes(name);
  $("send").disabled = !there && !running;
  if (there || running) return set("chat-said", "");
  if (name) return set("chat-said", `${name} is not loaded now. Nothing is sent to another model unless you choose it.`);
  set("chat-said", known.length ? "This machine serves no model. Those of other machines are called net/…: whoever answers can read what you write." : "No model is served yet. One that is trained here comes with its first checkpoint; others by [serve] models in talkoo.toml.");
}

async function ask(model, text) {
  // Other machines hear nothing that was said to another model.
  if (isOthers(model) && heard && model !== heard && said.length) {
    said.length = 0;
    show("note", `A new conversation: ${model} does not see what was said above.`);
  }
  heard = model;
  said.push({ role: "user", content: text });
  show("user", text);
  const line = show("assistant", "");
  line.setAttribute("aria-busy", "true");
  running = new AbortController();
  set("send", "Stop");
  set("chat-said", "");
  const answer = { text: "", id: null, tokens: 0, finish: "", begun: performance.now(), first: 0 };
  try {
    await read(await fitting(model, running.signal), answer, line.firstChild);
    if (!answer.finish) throw new Error("The answer broke off");
  } catch (error) {
    if (error.name !== "AbortError") show("wrong", error.message);
  }
  running = null;
  set("send", "Send");
  finish(answer, line);
  $("send").disabled = !known.includes($("model").value);
}

// A long conversation loses its beginning, a question with its answer at a time, until the model can take it.
async function fitting(model, signal) {
  for (;;) {
    try {
      return await question(model, signal);
    } catch (error) {
      if (error.code !== "context_length_exceeded" || said.length < 3) throw error;
      said.splice(0, 2);
    }
  }
}

function question(model, signal) {
  const body = { model, messages: said, stream: true, stream_options: { include_usage: true } };
  return send("/v1/chat/completions", body, signal);
}

async function read(response, answer, line) {
  for await (const data of events(response)) {
    if (data !== "[DONE]") take(JSON.parse(data), answer, line);
  }
}

function take(chunk, answer, line) {
  if (chunk.error) throw new Error(chunk.error.message);
  answer.id ||= chunk.id;
  if (chunk.usage) answer.tokens = chunk.usage.completion_tokens;
  const choice = chunk.choices[0];
  if (!choice) return;
  answer.finish = choice.finish_reason || answer.finish;
  if (!choice.delta.content) return;
  answer.first ||= performance.now() - answer.begun;
  answer.text += choice.delta.content;
  line.textContent = answer.text;
  if (atEnd()) line.scrollIntoView({ block: "end" });
}

function finish(answer, line) {
  line.removeAttribute("aria-busy");
  // A question without an answer is not repeated with the next one.
  if (answer.text) said.push({ role: "assistant", content: answer.text });
  else said.pop();
  const seconds = (performance.now() - answer.begun - answer.first) / 1000;
  // A single piece tells nothing of a rate.
  const rate = seconds > 0 && answer.tokens > 1 ? `, ${(answer.tokens / seconds).toFixed(1)} a second` : "";
  set("chat-said", answer.tokens ? `${plural(answer.tokens, "token")}${rate}, first after ${answer.first.toFixed(0)} ms` : "");
  if (answer.id && answer.text) line.append(receipt(answer.id));
  else if (!answer.text) line.remove();
}

function receipt(id) {
  const path = `/v1/receipts/${encodeURIComponent(id)}`;
  const place = el("div", {}, "Fetching");
  const details = el("details", {}, el("summary", {}, "Receipt"), place);
  details.addEventListener("toggle", async () => {
    if (!details.open || details.dataset.read) return;
    try {
      place.replaceChildren(...told(await get(path), path));
      details.dataset.read = "1";
    } catch (error) {
      place.textContent = error.status === 404 ? "There is none: only answers of other machines have a receipt." : error.message;
    }
  });
  return details;
}

function told(paper, path) {
  const list = el("dl", { class: "pairs" });
  const parts = paper.parts || [];
  const all = (name) => parts.reduce((total, part) => total + (part[name] || 0), 0);
  pairs(list, [
    ["Written by", parts.map((part) => short(part.provider)).join(", then ")],
    ["Weights", [...new Set(parts.map((part) => short(part.model)))].join(", ")],
    ["Tokens", `${all("tokens_read")} read, ${all("tokens_written")} written`],
    ["Cost", `${credits(paper.cost_micro || 0)} credits`],
    ["Tier", [...new Set(parts.map((part) => part.tier))].join(", ")],
  ]);
  const link = el("a", { class: "json", href: path, target: "_blank", rel: "noopener" }, "The whole receipt as JSON");
  return [list, el("p", {}, link, ", which ", el("code", {}, "talkoo receipt verify FILE"), " checks.")];
}

function show(kind, text) {
  $("talk-empty")?.remove();
  const line = el("article", { class: kind }, el("p", {}, text));
  $("talk").append(line);
  line.scrollIntoView({ block: "end" });
  return line;
}

// Whoever scrolled up to read is not pulled down again.
const atEnd = () => innerHeight + scrollY > document.documentElement.scrollHeight - 160;
