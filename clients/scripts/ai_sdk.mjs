// The Vercel AI SDK: `@ai-sdk/openai-compatible` (chat completions) or `@ai-sdk/openai` (the Responses API).
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { KEY, TALK, URL, run, weather } from "./case.mjs";

const given = { name: "gateway", baseURL: `${URL}/v1`, apiKey: KEY };
const provider =
  process.argv[2] === "responses"
    ? createOpenAI(given)
    : createOpenAICompatible({ ...given, includeUsage: true, supportsStructuredOutputs: true });
const ask = (model, prompt, more = {}) => ({ model: provider(model), prompt, maxRetries: 0, ...more });

await run({
  async plain(model, prompt) {
    const { text, usage } = await generateText(ask(model, prompt));
    return { text, tokens: usage.totalTokens };
  },

  async streamed(model, prompt) {
    const result = streamText(ask(model, prompt));
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    return { text: pieces.join(""), pieces: pieces.length, tokens: (await result.usage).totalTokens };
  },

  async tools(model, prompt) {
    const calls = [];
    const execute = ({ city }) => (calls.push("get_weather"), weather(city));
    const { description, parameters } = TALK.tool;
    const get_weather = tool({ description, inputSchema: jsonSchema(parameters), execute });
    const result = streamText(ask(model, prompt, { tools: { get_weather }, stopWhen: stepCountIs(3) }));
    await result.consumeStream();
    return { text: await result.text, calls };
  },

  async image(model, prompt) {
    const content = [{ type: "text", text: prompt }, { type: "image", image: Buffer.from(TALK.image, "base64") }];
    const { text } = await generateText(ask(model, undefined, { messages: [{ role: "user", content }] }));
    return { text };
  },

  async schema(model, prompt) {
    const output = Output.object({ schema: jsonSchema(TALK.schema) });
    return { object: (await generateText(ask(model, prompt, { output }))).output };
  },
});
