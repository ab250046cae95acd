// The page.  Text of models and data only ever becomes text: textContent, never markup.

import { Panel } from "/static/panel.js";
import { differences } from "/static/diff.js";
import { Fault, call, stream, useKey } from "/static/stream.js";

const byId = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
const panels = Object.fromEntries(
  SIDES.map((side) => [side, new Panel(document.querySelector(`[data-side=${side}]`), side, runAnswer)]),
);
let asking = null;
let pair = null;
let isBlind = false;
let tokensChosen = false;
let runs = [];

// -- asking -------------------------------------------------------------------------------

async function ask() {
  const question = byId("question").value.trim();
  if (!question || asking) return;
  asking = new AbortController();
  pair = null;
  isBlind = byId("blind").checked;
  showFault("");
  byId("answers").hidden = false;
  for (const id of ["legend", "vote", "nearest"]) byId(id).hidden = true;
  byId("tally").textContent = "";
  SIDES.forEach((side) => panels[side].begin());
  setBusy(true);
  say("Both models are answering …");
  let finished = false;
  try {
    const body = {
      run: byId("run").value,
      question,
      blind: isBlind,
      max_tokens: tokensChosen ? Number(byId("tokens").value) || null : null,
      temperature: Number(byId("temperature").value) || 0,
    };
    await stream("/page/pairs", body, asking.signal, take);
    finished = SIDES.every((side) => panels[side].ended);
    if (!finished) throw new Fault("The answers were cut off.", "cut_off", 0);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else explain(error);
  }
  asking = null;
  setBusy(false);
  SIDES.forEach((side) => panels[side].settle());
  if (finished) await conclude();
}

function take(event) {
  if (event.type === "start") {
    pair = event.pair;
    const names = event.names ?? [null, null];
    SIDES.forEach((side, place) => panels[side].call(names[place]));
  } else if (event.type === "text") {
    panels[event.side].add(event.text);
  } else if (event.type === "end") {
    panels[event.side].end(event);
  }
}

async function conclude() {
  const [left, right] = differences(panels.left.text, panels.right.text);
  panels.left.mark(left);
  panels.right.mark(right);
  const same = panels.left.text === panels.right.text;
  byId("legend").hidden = same;
  const said = SIDES.map((side) => `${panels[side].title} ${panels[side].verdict}`);
  say(`${said.join("; ")}.${same ? " Both answers are the same." : ""}`);
  if (isBlind) {
    byId("vote").hidden = false;
    byId("vote").querySelector("button").focus({ preventScroll: true });
  } else await showNearest();
}

// -- what follows an answer ---------------------------------------------------------------

async function showNearest() {
  let found;
  try {
    found = (await call("/page/nearest", { pair })).nearest;
  } catch (error) {
    explain(error);
    return;
  }
  byId("nearest").hidden = false;
  byId("nearest-row").hidden = !found;
  if (!found) {
    byId("nearest-said").textContent = "The run has no training rows here to compare with.";
    return;
  }
  byId("nearest-said").textContent = judged(found);
  byId("nearest-question").textContent = found.question;
  byId("nearest-answer").textContent = found.answer;
}

function judged(found) {
  const question = percent(found.question_likeness);
  const answer = percent(found.answer_likeness);
  if (found.question_likeness === 1) {
    return `This very question is in the training data; the adapted answer is ${answer} like the one it was trained on.`;
  }
  const opening = `The nearest training question is ${question} like yours, and the adapted answer is ${answer} like its answer`;
  if (found.answer_likeness >= 0.9) return `${opening}: this may well be memorised.`;
  return `${opening}: not a near copy.`;
}

const percent = (share) => `${Math.round(share * 100)} %`;

async function vote(better) {
  if (byId("vote").hidden || !pair) return;
  const buttons = byId("vote").querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  try {
    const reply = await call("/page/votes", { pair, better });
    SIDES.forEach((side, place) => panels[side].call(reply.names[place]));
    byId("vote").hidden = true;
    byId("tally").textContent = thanked(reply, better);
    byId("question").focus({ preventScroll: true });
    await showNearest();
  } catch (error) {
    explain(error);
  }
  buttons.forEach((button) => { button.disabled = false; });
}

function thanked({ names, tally }, better) {
  const chosen = better === "tie" ? "neither" : names[SIDES.indexOf(better)];
  const opening = `Your vote: ${chosen}. A was ${names[0]}, B was ${names[1]}.`;
  if (!tally) return opening;
  const counts = `So far, by question: adapted ${tally.adapted}, base ${tally.base}, neither ${tally.ties}`;
  const said = tally.p_value === null ? "" : ` (sign test p = ${tally.p_value.toFixed(3)})`;
  return `${opening} ${counts}${said}.`;
}

async function runAnswer(side, stdin) {
  return call("/page/run", { pair, side, stdin });
}

// -- the frame ----------------------------------------------------------------------------

function say(text) {
  byId("status").textContent = text;
}

function showFault(text) {
  byId("fault").textContent = text;
  byId("fault").hidden = !text;
}

function explain(error) {
  say("");
  showFault(error instanceof Fault ? error.message : `The page failed: ${error.message}`);
  if (error.status === 401) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
}

function setBusy(busy) {
  byId("send").disabled = busy;
  byId("stop").hidden = !busy;
}

async function open() {
  try {
    const info = await call("/page/info");
    showFault("");
    byId("key-form").hidden = true;
    runs = info.runs;
    byId("run").replaceChildren(...runs.map(({ name }) => {
      const option = document.createElement("option");
      option.textContent = option.value = name;
      return option;
    }));
    byId("tokens").max = info.most_tokens;
    showTokens();
    byId("about").textContent = `base: ${info.base}`;
    const sandbox = await call("/page/sandbox");
    SIDES.forEach((side) => panels[side].allowRunning(sandbox.available, sandbox.missing));
  } catch (error) {
    explain(error);
  }
}

function showTokens() {
  const chosen = runs.find(({ name }) => name === byId("run").value);
  if (chosen && !tokensChosen) byId("tokens").value = chosen.max_tokens;
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key").value = "";
  open();
});
byId("stop").addEventListener("click", () => asking?.abort());
byId("run").addEventListener("change", showTokens);
byId("tokens").addEventListener("input", () => { tokensChosen = byId("tokens").value !== ""; });
byId("vote").addEventListener("click", (event) => {
  const button = event.target.closest("[data-better]");
  if (button) vote(button.dataset.better);
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("textarea, input:not([type=checkbox]), select");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  else if (event.key === "Escape") asking?.abort();
  else if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === "/") byId("question").focus();
  else if (["1", "2", "3"].includes(event.key)) vote(["left", "tie", "right"][event.key - 1]);
  else return;
  event.preventDefault();
});
open();
