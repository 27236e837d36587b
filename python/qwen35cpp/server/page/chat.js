// Talks to the server: /v1/chat/completions as a stream.

import { settings } from "./store.js";

function headers() {
  const key = settings.get("key");
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

export class ServerError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
  }
}

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ServerError(response.status, body.error);
}

export async function model() {
  const response = await checked(await fetch("v1/models", { headers: headers() }));
  return (await response.json()).data[0];
}

// The messages of a conversation in the server's form.
function forServer(messages, system) {
  const sent = messages.map((message) => {
    if (message.role === "assistant") return { role: "assistant", content: message.text };
    if (!message.images?.length) return { role: "user", content: message.text };
    const pictures = message.images.map((url) => ({ type: "image_url", image_url: { url } }));
    return { role: "user", content: [...pictures, { type: "text", text: message.text }] };
  });
  return system ? [{ role: "system", content: system }, ...sent] : sent;
}

// The JSON values of a stream of events, as they arrive.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

// Asks for an answer and tells `on` about it: progress(share), reasoning(text), text(text) and
// end({usage, timings, reason}).
export async function ask(messages, { think, signal }, on) {
  const body = {
    messages: forServer(messages, settings.get("system")),
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    enable_thinking: think,
  };
  const temperature = settings.get("temperature");
  const limit = settings.get("max-tokens");
  if (temperature !== "") body.temperature = Number(temperature);
  if (limit !== "") body.max_tokens = Number(limit);
  const response = await checked(
    await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal,
    }),
  );
  let reason = null;
  for await (const event of events(response)) {
    if (event.error) throw new ServerError(500, event.error);
    if (event.prompt_progress) {
      on.progress(event.prompt_progress.processed / event.prompt_progress.total);
    }
    for (const choice of event.choices) {
      if (choice.delta.reasoning_content) on.reasoning(choice.delta.reasoning_content);
      if (choice.delta.content) on.text(choice.delta.content);
      reason = choice.finish_reason ?? reason;
    }
    if (event.usage) on.end({ usage: event.usage, timings: event.timings, reason });
  }
}
