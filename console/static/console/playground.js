// Asks /v1/chat/completions with the user's own proxy key and shows the answer as it comes. What others wrote (models,
// providers) is only ever inserted as text.

import { EventStream } from "./sse.js";
import { take } from "./handed.js";

const element = (id) => document.getElementById(id);
const form = element("ask");
const key = element("key");
const state = element("state");
let asking = null; // what the stop button aborts

const say = (word) => (state.textContent = state.dataset[word] ?? "");
const authorized = () => ({ Authorization: `Bearer ${key.value.trim()}` });
const milliseconds = (value) => (value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(2)} s`);

function show(id, text) {
  element(id).textContent = text ?? "–";
}

// --- The models that the key reaches ------------------------------------------------------------------------

let listing = null;

async function listModels() {
  listing?.abort();
  listing = new AbortController();
  const help = element("model-help");
  if (!key.value.trim()) return;
  try {
    const response = await fetch("/v1/models", { headers: authorized(), signal: listing.signal });
    const body = await response.json();
    if (!response.ok) {
      help.textContent = body.error?.message ?? `HTTP ${response.status}`;
      return;
    }
    element("models").replaceChildren(...body.data.map((model) => new Option(model.id, model.id)));
    help.textContent = body.data.map((model) => model.id).slice(0, 6).join(", ") + (body.data.length > 6 ? " …" : "");
  } catch (error) {
    if (error.name !== "AbortError") help.textContent = error.message;
  }
}

// --- One question -------------------------------------------------------------------------------------------

function question() {
  const messages = [{ role: "user", content: element("user").value }];
  if (element("system").value.trim()) messages.unshift({ role: "system", content: element("system").value });
  const body = { model: element("model").value.trim(), messages };
  if (element("max-tokens").value) body.max_tokens = Number(element("max-tokens").value);
  if (element("stream").checked) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  return body;
}

class Refused extends Error {}

/** What was measured and told, filled while the answer comes. */
class Exchange {
  constructor(signal) {
    this.signal = signal;
    this.started = performance.now();
    this.first = null;
    this.ended = false; // whether the answer came to its end
  }

  async run(body) {
    const headers = { ...authorized(), "Content-Type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify(body), signal: this.signal };
    const response = await fetch("/v1/chat/completions", options);
    this.headers = response.headers;
    if (!response.ok) throw new Refused(await reason(response));
    if (body.stream) await this.#read(response.body);
    else this.#take(await response.json(), "message");
    this.ended ||= !body.stream;
  }

  async #read(body) {
    const events = new EventStream();
    const text = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await text.read(); !part.done; part = await text.read()) {
      for (const data of events.push(part.value)) {
        if (data === "[DONE]") this.ended = true;
        else this.#take(JSON.parse(data), "delta");
      }
    }
  }

  #take(answer, part) {
    if (answer.error) throw new Refused(answer.error.message ?? "");
    const piece = answer.choices?.[0]?.[part];
    const text = piece?.content ?? piece?.refusal;
    if (text) {
      this.first ??= performance.now();
      if (part === "delta") say("streaming");
      element("answer").append(text);
    }
    this.usage = answer.usage ?? this.usage;
  }

  report() {
    const { prompt_tokens: input, completion_tokens: output, cost } = this.usage ?? {};
    const price = cost ?? this.headers?.get("x-aiproxy-cost");
    const by = ["x-aiproxy-provider", "x-aiproxy-model"].map((name) => this.headers?.get(name)).filter(Boolean);
    const attempts = Number(this.headers?.get("x-aiproxy-attempts") ?? 1);
    show("tokens-in", input);
    show("tokens-out", output);
    show("cost", price == null ? null : `$${Number(price).toFixed(6)}`);
    show("first", this.first && milliseconds(this.first - this.started));
    show("total", milliseconds(performance.now() - this.started));
    show("by", by.length ? by.join("/") + (attempts > 1 ? ` (${attempts})` : "") : null);
    const link = element("request");
    const id = this.headers?.get("x-request-id");
    show("request", id);
    if (id) link.href = link.dataset.url + encodeURIComponent(id);
    else link.removeAttribute("href");
    element("facts").hidden = false;
  }
}

async function reason(response) {
  const text = await response.text();
  let message = text.slice(0, 500);
  try {
    message = JSON.parse(text).error?.message ?? message;
  } catch {
    // not JSON: something between us and the service answered
  }
  return `${response.status}: ${message}`;
}

function fail(text, id) {
  element("error").textContent = id ? `${text} (${id})` : text;
  element("error").hidden = false;
  say("failed");
}

function busy(is) {
  element("send").disabled = is;
  element("stop").disabled = !is;
  element("answer").setAttribute("aria-busy", String(is));
}

async function ask() {
  const control = (asking = new AbortController());
  const exchange = new Exchange(control.signal);
  element("answer").replaceChildren();
  element("error").hidden = element("facts").hidden = true;
  say("waiting");
  busy(true);
  try {
    await exchange.run(question());
    say(exchange.ended ? "done" : "cut");
  } catch (error) {
    if (error.name === "AbortError") say("stopped");
    else fail(error.message, exchange.headers?.get("x-request-id"));
  } finally {
    busy(false);
    exchange.report();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
element("stop").addEventListener("click", () => asking?.abort());
key.addEventListener("change", listModels);
key.value = take();
listModels();
