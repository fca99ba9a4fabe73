// The check that clients.py makes with OpenAI's client for JavaScript. It prints the client's version.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: process.env.OPENAI_BASE_URL, apiKey: "any", maxRetries: 0 });
const asked = { model: "any", temperature: 0, max_tokens: 60 };
const said = (content) => [{ role: "user", content }];

const messages = said("What is the capital of France? Answer in one sentence.");
const whole = (await client.chat.completions.create({ ...asked, messages })).choices[0].message.content;
const pieces = [];
for await (const chunk of await client.chat.completions.create({ ...asked, messages, stream: true }))
  pieces.push(chunk.choices[0].delta.content ?? "");
assert.equal(pieces.join(""), whole);
assert.ok(whole.includes("Paris") && pieces.length > 1);

const city = z.object({ city: z.string(), country: z.enum(["France", "Italy"]) });
const parsed = await client.chat.completions.parse({
  ...asked,
  messages: said("Give me Paris and its country as JSON."),
  response_format: zodResponseFormat(city, "city"),
});
city.parse(parsed.choices[0].message.parsed);

const cities = [];
const runner = client.chat.completions.runTools({
  ...asked,
  stream: true,
  messages: said("What is the weather in Paris?"),
  tool_choice: { type: "function", function: { name: "weather" } }, // one call: a small model would go on calling
  tools: [
    {
      type: "function",
      function: {
        name: "weather",
        description: "Return the weather in a city.",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
        parse: JSON.parse,
        function: ({ city }) => (cities.push(city), "It rains."),
      },
    },
  ],
});
await runner.done();
assert.equal(cities.length, 1);

const response = await client.responses
  .stream({ model: "any", input: messages, temperature: 0, max_output_tokens: 60 })
  .finalResponse();
assert.equal(response.output_text, whole);
console.log(JSON.parse(readFileSync("node_modules/openai/package.json", "utf8")).version);
