// What the Node scripts share; the same as case.py.
import { readFileSync } from "node:fs";

export const { CLIENTS_URL: URL, CLIENTS_KEY: KEY } = process.env;
export const TALK = JSON.parse(readFileSync(new globalThis.URL("conversation.json", import.meta.url)));
export const IMAGE_URL = `data:image/png;base64,${TALK.image}`;

export async function run(named) {
  for (const [provider, name, model, prompt] of JSON.parse(process.env.CLIENTS_CASES)) {
    const started = Date.now() / 1000;
    let got;
    try {
      got = await named[name === "error" ? "plain" : name](model, prompt);
    } catch (error) {
      const { status, statusCode = status ?? null, message } = error;
      got = { raised: error.name === "Error" ? error.constructor.name : error.name, status: statusCode, message };
    }
    console.log(JSON.stringify({ provider, case: name, got, started, ended: Date.now() / 1000 }));
  }
}

export function weather(city) {
  if (typeof city !== "string" || !city) throw new TypeError("no city");
  return TALK.tool_result;
}
