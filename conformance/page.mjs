// The page of a running talkoo, in a real browser: `page.mjs BASE_URL`. One line for each check; ends with an error if any failed.
// CHROMIUM names the browser, SHOTS a folder for pictures; with PAGE_EXPECT_RUN=1 there must be a run with a chart. LOCKED is the
// address of a node that demands keys, a space, and its owner's key.
// Written for playwright-core 1.65.1.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";

const [base] = process.argv.slice(2);
assert.ok(base, "page.mjs BASE_URL");
const { CHROMIUM = "/usr/bin/chromium", SHOTS, PAGE_EXPECT_RUN, LOCKED } = process.env;

const views = ["overview", "training", "peers", "serving", "ledger", "chat", "settings"];
const looks = [
  { name: "light", colorScheme: "light", viewport: { width: 1280, height: 900 } },
  { name: "dark", colorScheme: "dark", viewport: { width: 1280, height: 900 } },
  { name: "phone", colorScheme: "light", viewport: { width: 360, height: 740 } },
];
// The browser asks nobody but the program.
const quiet = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
let passed = 0, failed = 0;

async function check(name, step) {
  try {
    const said = await step();
    passed++;
    console.log(`ok    ${name}${said ? `: ${said}` : ""}`);
  } catch (error) {
    failed++;
    console.log(`WRONG ${name}: ${error.message.split("\n")[0]}`);
  }
}

// A page that remembers everything that went wrong in it.
async function opened(browser, look, path) {
  const page = await browser.newPage({ colorScheme: look.colorScheme, viewport: look.viewport });
  const wrong = [];
  page.on("console", (said) => ["error", "warning"].includes(said.type()) && wrong.push(`console: ${said.text()}`));
  page.on("pageerror", (error) => wrong.push(`page: ${error.message}`));
  page.on("response", (answer) => answer.status() >= 400 && wrong.push(`${answer.status()} ${answer.url()}`));
  // What the page itself hung up on did not fail.
  page.on("requestfailed", (request) => {
    const why = request.failure()?.errorText;
    if (why !== "net::ERR_ABORTED") wrong.push(`${why} ${request.url()}`);
  });
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol !== "data:" && origin !== new URL(base).origin) wrong.push(`a request to another place: ${request.url()}`);
  });
  await page.addInitScript(() => {
    globalThis.shifts = 0;
    new PerformanceObserver((list) => {
      for (const shift of list.getEntries()) if (!shift.hadRecentInput) globalThis.shifts += shift.value;
    }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto(new URL(path, base).href, { waitUntil: "load" });
  return { page, wrong };
}

const fine = (wrong) => assert.equal(wrong.join("; "), "", `went wrong: ${wrong.join("; ")}`);

// The first paint is reported a little after it happened.
async function firstPaint(page) {
  for (let i = 0; i < 60; i++) {
    const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
    if (paint) return paint;
    await sleep(50);
  }
  throw new Error("nothing was painted for three seconds");
}

async function isWhole(page, view, wrong) {
  fine(wrong);
  const section = page.locator(`[data-view=${view}]`);
  await section.locator("h1").waitFor({ state: "visible", timeout: 3000 });
  assert.equal((await section.locator("h1").textContent()).toLowerCase(), view, "the heading");
  assert.equal(await page.locator("nav [aria-current=page]").getAttribute("href"), `#/${view}`, "the nav's current view");
  assert.equal(await page.locator("[data-view]:visible").count(), 1, "one view at a time");
  // Below the heading there is something to see; of the training view's two bodies it is one or the other.
  await page.locator(`[data-view=${view}] > :nth-child(2):visible, [data-view=${view}] > :nth-child(3):visible`).first().waitFor({ timeout: 3000 });
  const { wide, room } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth, room: document.documentElement.clientWidth }));
  assert.ok(wide <= room, `${wide} px wide in a window of ${room}`);
  const shifts = await page.evaluate(() => globalThis.shifts);
  assert.ok(shifts <= 0.05, `layout shift ${shifts.toFixed(3)}`);
  fine(wrong);
  return shifts;
}

async function opens(browser, look, view) {
  const { page, wrong } = await opened(browser, look, `/#/${view}`);
  try {
    const paint = await firstPaint(page);
    // A bound against what hangs; how fast it is, is a figure.
    assert.ok(paint <= 5000, `first contentful paint after ${paint.toFixed(0)} ms`);
    // Two seconds of live data: those may shift nothing either.
    await sleep(2000);
    const shifts = await isWhole(page, view, wrong);
    if (SHOTS) await page.screenshot({ path: join(SHOTS, `${view}-${look.name}.png`), fullPage: true });
    return `painted after ${paint.toFixed(0)} ms, shift ${shifts.toFixed(3)}`;
  } finally {
    await page.close();
  }
}

async function keyboard(browser) {
  const { page, wrong } = await opened(browser, looks[0], "/");
  try {
    await page.locator("[data-view=overview] h1").waitFor({ state: "visible" });
    const at = () => page.evaluate(() => document.activeElement.getAttribute("href"));
    const tabTo = async (href) => {
      for (let i = 0; i < 20; i++) {
        await page.keyboard.press("Tab");
        if ((await at()) === href) return;
      }
      assert.fail(`20 times Tab do not reach ${href}`);
    };
    for (const view of ["training", "settings"]) {
      // Focus stood on the heading of the view before: the nav lies behind the beginning of the page.
      await page.evaluate(() => document.activeElement.blur());
      await page.reload();
      await tabTo(`#/${view}`);
      await page.keyboard.press("Enter");
      await page.locator(`[data-view=${view}] h1`).waitFor({ state: "visible" });
      assert.equal(await page.evaluate(() => document.activeElement.id), `h-${view}`, "focus moves to the heading");
    }
    await page.goBack();
    await page.locator("[data-view=training] h1").waitFor({ state: "visible" });
    fine(wrong);
  } finally {
    await page.close();
  }
}

// From a block to the account of who signed something in it, and back to where one was, without a pointer.
async function ledgerByKeyboard(browser) {
  const { page, wrong } = await opened(browser, looks[0], "/#/ledger");
  try {
    const focused = (what) => page.evaluate((what) => document.activeElement[what] ?? "", what);
    // What is shown is fetched first.
    const reached = async (what, expect) => {
      for (let i = 0; i < 60 && !expect.test(await focused(what)); i++) await sleep(50);
      assert.match(String(await focused(what)), expect);
    };
    const block = page.locator("#blocks tr", { has: page.locator("td:nth-child(2) a") }).first().locator("a").first();
    await block.waitFor({ state: "visible", timeout: 3000 });
    const number = await block.getAttribute("href");
    await block.focus();
    await page.keyboard.press("Enter");
    await reached("id", /^found-title$/);
    const key = /^#\/ledger\/[0-9a-f]{64}$/;
    for (let i = 0; i < 20 && !key.test(await focused("hash")); i++) await page.keyboard.press("Tab");
    const account = await focused("hash");
    await page.keyboard.press("Enter");
    await reached("textContent", /^Account /);
    await page.keyboard.press("Tab");
    await reached("textContent", /^Back to block /);
    await page.keyboard.press("Enter");
    await reached("hash", new RegExp(`^${account}$`));
    await page.goBack();
    await reached("textContent", /^Account /);
    await page.goBack();
    await reached("hash", new RegExp(`^${account}$`));
    await page.goBack();
    await reached("hash", new RegExp(`^${number}$`));
    fine(wrong);
  } finally {
    await page.close();
  }
}

async function everyView(browser) {
  const { page, wrong } = await opened(browser, looks[0], "/");
  try {
    for (const view of [...views.slice(1), "overview"]) {
      await page.locator(`nav a[href="#/${view}"]`).click();
      await isWhole(page, view, wrong);
    }
    for (const view of views) {
      const path = await page.locator(`[data-view=${view}] a.json`).getAttribute("href");
      const answer = await fetch(new URL(path, base));
      assert.ok(answer.ok && (await answer.json()), `${path} is JSON`);
    }
  } finally {
    await page.close();
  }
}

async function policy() {
  const answer = await fetch(base);
  const said = answer.headers.get("content-security-policy") ?? "";
  for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]) assert.ok(said.includes(part), part);
  const text = await answer.text();
  assert.ok(!/<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=/i.test(text), "nothing inline");
}

async function hasRun(browser) {
  const { page, wrong } = await opened(browser, looks[0], "/#/training");
  try {
    const charts = page.locator("[data-view=training] svg[data-points]");
    const most = async () => Math.max(0, ...(await charts.evaluateAll((all) => all.map((one) => Number(one.dataset.points)))));
    for (let i = 0; i < 100 && (await most()) < 2; i++) await sleep(100);
    const points = await most();
    assert.ok(points >= 2, `a chart with ${points} points`);
    assert.ok(await charts.first().isVisible(), "the chart is seen");
    fine(wrong);
    return `${points} points`;
  } finally {
    await page.close();
  }
}

// A node that demands keys says so, and shows itself to its owner's.
async function locked(browser, place, key) {
  const page = await browser.newPage({ viewport: looks[0].viewport });
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`page: ${error.message}`));
  try {
    await page.goto(place, { waitUntil: "load" });
    const says = (text) => page.locator("#lock-said", { hasText: text }).waitFor({ state: "visible", timeout: 3000 });
    const give = async (key) => {
      await page.locator("#owner-key").fill(key);
      await page.keyboard.press("Enter");
    };
    await page.locator("#lock", { hasText: "--owner" }).waitFor({ state: "visible", timeout: 3000 });
    if (SHOTS) await page.screenshot({ path: join(SHOTS, "locked.png"), fullPage: true });
    await give("tk-wrong");
    await says("Incorrect API key");
    await give(key);
    await page.locator("#state").waitFor({ state: "visible", timeout: 3000 });
    await page.locator("#live", { hasText: /^Live$/ }).waitFor({ timeout: 3000 });
    assert.ok(!(await page.locator("#lock").isVisible()), "it asks no more");
    await page.locator("nav a[href='#/chat']").click();
    await page.locator("#model option").first().waitFor({ state: "attached", timeout: 3000 });
    assert.notEqual(await page.locator("#model").inputValue(), "none is served");
    await page.locator("nav a[href='#/overview']").click();
    await page.locator("#forget").click();
    await page.locator("#lock").waitFor({ state: "visible", timeout: 3000 });
    fine(wrong);
  } finally {
    await page.close();
  }
}

// A conversation with a model of this machine goes to no other one because that is not loaded any more.
async function goneModel(browser) {
  const { page, wrong } = await opened(browser, looks[0], "/#/chat");
  const asked = [];
  let names = ["own", "net/own"];
  try {
    const list = () => ({ object: "list", data: names.map((id) => ({ id, object: "model" })) });
    await page.route("**/v1/models", (route) => route.fulfill({ json: list() }));
    await page.route("**/v1/chat/completions", (route) => {
      asked.push(route.request().postDataJSON());
      const chunk = { id: "a", choices: [{ delta: { content: "yes" }, finish_reason: "stop" }], usage: { completion_tokens: 1 } };
      route.fulfill({ contentType: "text/event-stream", body: `data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n` });
    });
    const again = () => page.evaluate(async () => (await import("/page/chat.js")).showModels());
    const say = async (text) => {
      await page.locator("#text").fill(text);
      await page.keyboard.press("Enter");
    };
    await page.reload({ waitUntil: "load" });
    await page.locator("#model option[value=own]").waitFor({ state: "attached", timeout: 3000 });
    assert.equal(await page.locator("#model").inputValue(), "own", "this machine's own is chosen first");
    await say("a secret");
    await page.locator("article.assistant", { hasText: "yes" }).waitFor({ timeout: 3000 });
    await page.locator("#send", { hasText: "Send" }).waitFor({ timeout: 3000 });
    names = ["net/own"];
    await again();
    assert.equal(await page.locator("#model").inputValue(), "own", "it stays chosen");
    assert.ok(await page.locator("#send").isDisabled(), "and nothing can be sent");
    await say("another secret");
    await again();
    assert.equal(asked.length, 1, "nothing was sent to machines of others");
    await page.locator("#model").selectOption("net/own");
    await say("open words");
    await page.locator("article.assistant", { hasText: "yes" }).nth(1).waitFor({ timeout: 3000 });
    assert.equal(asked[1].model, "net/own");
    assert.deepEqual(asked[1].messages.map((one) => one.content), ["open words"], "what was said before stays here");
    await page.locator("#send", { hasText: "Send" }).waitFor({ timeout: 3000 });
    fine(wrong);
  } finally {
    await page.close();
  }
}

if (SHOTS) await mkdir(SHOTS, { recursive: true });
const browser = await chromium.launch({ executablePath: CHROMIUM, args: quiet });
try {
  await check("the policy lets nothing in from elsewhere", policy);
  for (const look of looks) {
    for (const view of views) await check(`${view}, ${look.name}`, () => opens(browser, look, view));
  }
  await check("Tab reaches the nav, Enter switches views", () => keyboard(browser));
  await check("every view from the nav, each with its JSON", () => everyView(browser));
  if (PAGE_EXPECT_RUN === "1") {
    await check("the training view shows a run", () => hasRun(browser));
    await check("from a block to an account and back by keyboard", () => ledgerByKeyboard(browser));
  }
  await check("a model that is gone is not replaced by others'", () => goneModel(browser));
  if (LOCKED) await check("a node that demands keys", () => locked(browser, ...LOCKED.split(" ")));
} finally {
  await browser.close();
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
