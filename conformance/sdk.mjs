// The official JavaScript package against our API: `sdk.mjs BASE_URL MODEL`. Ends with an error if anything differs.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const [base, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hi" }];
const ask = { model, messages, max_tokens: 8, temperature: 0 };

async function refused(kind, status, code, call) {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof kind, `${code}: ${error}`);
    assert.deepEqual([error.status, error.type], [status, "invalid_request_error"]);
    // The API gives some errors no code.
    if (code) assert.equal(error.code, code);
    assert.ok(error.message && error.requestID, "a message, and the request's name");
    return true;
  });
}

async function gather(stream) {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
}

async function models() {
  const listed = await gather(client.models.list());
  assert.ok(listed.some((one) => one.id === model && one.object === "model" && one.created > 0 && one.owned_by));
  assert.equal((await client.models.retrieve(model)).id, model);
  await refused(OpenAI.NotFoundError, 404, "model_not_found", () => client.models.retrieve("none"));
}

async function chat() {
  const { data: answer, request_id: name } = await client.chat.completions.create(ask).withResponse();
  const [choice] = answer.choices;
  assert.ok(choice.message.content && name);
  assert.equal(answer.object, "chat.completion");
  assert.ok(["stop", "length"].includes(choice.finish_reason) && answer.usage.completion_tokens <= 8);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);

  const chunks = await gather(await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }));
  const said = chunks.map((one) => one.choices[0]?.delta.content ?? "").join("");
  assert.equal(said, choice.message.content, "streamed or not, temperature 0 says the same");
  assert.ok(chunks.every((one) => one.id === chunks[0].id && one.object === "chat.completion.chunk"));
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.filter((one) => one.choices[0]?.finish_reason).length, 1);
  // What was read before may be counted as cached, so only the sums are compared.
  const last = chunks.at(-1);
  assert.deepEqual([last.choices, last.usage.total_tokens], [[], answer.usage.total_tokens]);
  assert.ok(chunks.slice(0, -1).every((one) => one.usage === null), "until the last chunk there is no usage");
}

const weather = {
  type: "function",
  function: {
    name: "weather",
    strict: true,
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false },
  },
};
const forecast = { type: "function", function: { name: "forecast", parameters: { type: "object", properties: {} } } };

async function tools() {
  const about = [{ role: "user", content: "The weather in Oslo?" }];
  const question = { model, messages: about, tools: [forecast, weather], max_tokens: 80, temperature: 0 };
  const forced = { type: "function", function: { name: "weather" } };
  const called = (await client.chat.completions.create({ ...question, tool_choice: forced })).choices[0];
  const [call] = called.message.tool_calls;
  // The API itself says `stop` where one function was forced, and `tool_calls` where any was.
  assert.ok(["stop", "tool_calls"].includes(called.finish_reason));
  assert.deepEqual([call.type, call.function.name, typeof JSON.parse(call.function.arguments).city], ["function", "weather", "string"]);
  assert.ok(call.id);

  const streamed = await client.chat.completions.stream({ ...question, tool_choice: forced }).finalMessage();
  assert.equal(streamed.tool_calls[0].function.name, "weather");
  assert.equal(streamed.tool_calls[0].function.arguments, call.function.arguments);

  // The result of a call is read, and answered in words.
  const told = [...about, called.message, { role: "tool", tool_call_id: call.id, content: "It rains." }];
  const after = await client.chat.completions.create({ ...question, messages: told, tool_choice: "none" });
  assert.ok(after.choices[0].message.content && !after.choices[0].message.tool_calls);
}

async function shapes() {
  const schema = {
    type: "object",
    properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer" }, role: { enum: ["smith", "miller"] } },
    required: ["name", "age", "role"],
    additionalProperties: false,
  };
  const format = { type: "json_schema", json_schema: { name: "person", strict: true, schema } };
  const question = [{ role: "user", content: "A person as JSON" }];
  const answer = await client.chat.completions.create({ model, messages: question, response_format: format, max_tokens: 120, temperature: 0 });
  assert.equal(answer.choices[0].finish_reason, "stop");
  const person = JSON.parse(answer.choices[0].message.content);
  assert.deepEqual(Object.keys(person).sort(), ["age", "name", "role"]);
  assert.ok(Number.isInteger(person.age) && ["smith", "miller"].includes(person.role) && person.name.length <= 20);
}

async function completions() {
  const answer = await client.completions.create({ model, prompt: ["The sky is", "Grass is"], max_tokens: 4, temperature: 0, logprobs: 2 });
  assert.deepEqual([answer.object, answer.choices.map((choice) => choice.index)], ["text_completion", [0, 1]]);
  for (const { text, logprobs } of answer.choices) {
    assert.equal(logprobs.tokens.join(""), text);
    assert.ok(logprobs.token_logprobs.every((one) => one <= 0));
  }
  // A token that was not among the likeliest is listed beside them: there may be one more than was asked for.
  const echoed = await client.completions.create({ model, prompt: "The sky is blue", max_tokens: 1, echo: true, logprobs: 1 });
  const { tokens, token_logprobs: likely, top_logprobs: top } = echoed.choices[0].logprobs;
  assert.ok(likely[0] === null && tokens.slice(1).every((token, i) => top[i + 1][token] === likely[i + 1]), "tokens among the likeliest");

  const one = { model, prompt: "The sky is", max_tokens: 4, temperature: 0 };
  const chunks = await gather(await client.completions.create({ ...one, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""), answer.choices[0].text);
}

async function responses() {
  const asked = { model, input: "Say hi", instructions: "Be brief.", max_output_tokens: 64, temperature: 0 };
  const answer = await client.responses.create(asked);
  assert.ok(answer.output_text && answer.status === "completed" && answer.error === null);
  assert.deepEqual([answer.object, answer.output[0].type, answer.output[0].role], ["response", "message", "assistant"]);
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens);
  const short = await client.responses.create({ model, input: "Tell a story", max_output_tokens: 4, temperature: 0 });
  assert.deepEqual([short.status, short.incomplete_details.reason], ["incomplete", "max_output_tokens"]);
  assert.equal(short.completed_at ?? null, null, "what is incomplete was never completed");

  const events = await gather(await client.responses.create({ ...asked, stream: true }));
  const kinds = events.map((event) => event.type).filter((kind, i, all) => kind !== all[i - 1]);
  assert.deepEqual(kinds, [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done", "response.output_item.done",
    "response.completed",
  ]);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => i));
  const said = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
  assert.equal(said, answer.output_text);
  assert.equal(events.at(-1).response.output[0].content[0].text, said);

  const flat = { type: "function", name: "weather", strict: true, parameters: weather.function.parameters };
  const forced = { tools: [flat], tool_choice: "required", max_output_tokens: 80, temperature: 0 };
  const called = await client.responses.create({ model, input: "The weather in Oslo?", ...forced });
  const call = called.output.find((item) => item.type === "function_call");
  assert.deepEqual([call.name, typeof JSON.parse(call.arguments).city], ["weather", "string"]);
  assert.ok(call.call_id);
}

async function errors() {
  const chat = (more) => () => client.chat.completions.create({ ...ask, ...more });
  await refused(OpenAI.NotFoundError, 404, "model_not_found", chat({ model: "none" }));
  await refused(OpenAI.NotFoundError, 404, "model_not_found", chat({ model: "none", stream: true }));
  await refused(OpenAI.BadRequestError, 400, "invalid_value", chat({ messages: [] }));
  await refused(OpenAI.BadRequestError, 400, "invalid_value", chat({ temperature: 3 }));
  await refused(OpenAI.BadRequestError, 400, "missing_required_parameter", () => client.chat.completions.create({ model }));
  // What has no effect without something else is not read over.
  await refused(OpenAI.BadRequestError, 400, null, chat({ tool_choice: "required" }));
  const nameless = { type: "json_schema", json_schema: { schema: { type: "object" } } };
  await refused(OpenAI.BadRequestError, 400, "missing_required_parameter", chat({ response_format: nameless }));
  await assert.rejects(chat({ logit_bias: { 99999999: 1 } }), { status: 400, param: "logit_bias" });
  // A model that was not published for embeddings has none.
  await assert.rejects(() => client.embeddings.create({ model, input: "x" }), OpenAI.BadRequestError);
}

// The server lets go of what nobody reads: it counts the answers that are being written.
async function idle() {
  for (let i = 0; i < 200; i++) {
    const text = await (await fetch(new URL("/metrics", base))).text();
    if (text.match(/^talkoo_num_requests_running (\d+)$/m)[1] === "0") return;
    await sleep(50);
  }
  assert.fail("an answer is still being written ten seconds after its reader hung up");
}

async function aborts() {
  // A shape of many numbers, so that the model cannot end by itself before we hang up: all of it takes much longer than we wait.
  const schema = { type: "array", items: { type: "integer" }, minItems: 1000 };
  const long = { ...ask, max_tokens: 2000, response_format: { type: "json_schema", json_schema: { name: "numbers", schema } } };
  const stream = await client.chat.completions.create({ ...long, stream: true });
  let seen = 0;
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content && ++seen === 3) break;
  }
  assert.equal(seen, 3);
  assert.ok(stream.controller.signal.aborted, "leaving the loop hangs up");
  await idle();
  const hangUp = new AbortController();
  const waiting = client.chat.completions.create(long, { signal: hangUp.signal });
  setTimeout(() => hangUp.abort(), 300);
  await assert.rejects(waiting, OpenAI.APIUserAbortError);
  await idle();
  assert.ok((await client.chat.completions.create(ask)).choices[0].message.content, "the server goes on");
}

// One after the other, so that everything that differs is seen at once.
for (const step of [models, chat, tools, shapes, completions, responses, errors, aborts]) {
  await step().catch((error) => {
    console.error(`${step.name}:`, error);
    process.exitCode = 1;
  });
}
if (!process.exitCode) console.log(`npm openai ${VERSION}: as expected`);
