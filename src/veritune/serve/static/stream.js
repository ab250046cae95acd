// Talking to the server: JSON in both directions, and server-sent events over POST.

let key = "";

/** Send this key with every request from now on; it is kept in this tab only. */
export function useKey(value) {
  key = value;
}

/** A fault that the server explained. */
export class Fault extends Error {
  constructor(message, code, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

async function send(path, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = { headers, signal };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("The server cannot be reached.", "unreachable", 0);
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => null);
  throw new Fault(
    found?.error?.message ?? `The server answered ${answer.status}.`, found?.error?.code, answer.status,
  );
}

/** GET, or POST where there is a body; the reply as an object. */
export async function call(path, body) {
  return (await send(path, body)).json();
}

/** POST, and hand on each event's object as it arrives. */
export async function stream(path, body, signal, onEvent) {
  const answer = await send(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const content = JSON.parse(event.slice(6));
      if (content.error) throw new Fault(content.error.message, content.error.code, 200);
      onEvent(content);
    }
  }
}
