// Starts aimock on the port that is given, with what it has to say in each case. It prints one line when it listens.
import { LLMock } from "@copilotkit/aimock";
import { TALK } from "./case.mjs";

const mock = new LLMock({ port: Number(process.argv[2]), chunkSize: 5, logLevel: "silent", journalMax: 0 });
const usage = { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 };
const error = { message: "Slow down.", type: "rate_limit_error", code: "rate_limit_exceeded" };

mock.on({ model: /limited/ }, { error, status: 429 });
mock.on(
  { model: /codex-tools/, hasToolResult: false },
  { toolCalls: [{ name: "exec_command", arguments: { cmd: `echo ${TALK.tool_result}` } }], usage },
);
mock.on({ userMessage: /as JSON/ }, { content: '{"city":"Paris","degrees":21}', usage });
mock.on(
  { model: /tools/, userMessage: /weather/, hasToolResult: false },
  { toolCalls: [{ name: "get_weather", arguments: { city: "Paris" } }], usage },
);
mock.on({}, { content: "Hello, you said something.", usage });
await mock.start();
console.log(mock.url);
