// openai for Node, chat completions.
import OpenAI from "openai";
import { IMAGE_URL, KEY, TALK, URL, run, weather } from "./case.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const asked = (content) => [{ role: "user", content }];

await run({
  async plain(model, prompt) {
    const completion = await client.chat.completions.create({ model, messages: asked(prompt) });
    return { text: completion.choices[0].message.content, tokens: completion.usage.total_tokens };
  },

  async streamed(model, prompt) {
    const options = { stream: true, stream_options: { include_usage: true } };
    const stream = await client.chat.completions.create({ model, messages: asked(prompt), ...options });
    const pieces = [];
    let tokens;
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
      tokens = chunk.usage?.total_tokens;
    }
    return { text: pieces.join(""), pieces: pieces.length, tokens };
  },

  async tools(model, prompt) {
    const calls = [];
    const get_weather = ({ city }) => (calls.push("get_weather"), weather(city));
    const tool = { ...TALK.tool, parse: JSON.parse, function: get_weather };
    const runner = client.chat.completions.runTools({
      model, messages: asked(prompt), stream: true, tools: [{ type: "function", function: tool }],
    });
    return { text: await runner.finalContent(), calls };
  },

  async image(model, prompt) {
    const parts = [{ type: "text", text: prompt }, { type: "image_url", image_url: { url: IMAGE_URL } }];
    const completion = await client.chat.completions.create({ model, messages: asked(parts) });
    return { text: completion.choices[0].message.content };
  },

  async schema(model, prompt) {
    const json_schema = { name: "weather", schema: TALK.schema, strict: true };
    const completion = await client.chat.completions.parse({
      model, messages: asked(prompt), response_format: { type: "json_schema", json_schema },
    });
    return { object: completion.choices[0].message.parsed };
  },
});
