// Asks the service. What goes wrong becomes a `Problem` with a sentence for the person who asked.

import { t } from "./words.js";

const ROOT = new URL("v1/", document.baseURI);
const PATIENCE = 30; // seconds that a busy service is waited for at most

export class Problem extends Error {
  /** `status` is that of HTTP; 0 if the service was not reached. */
  constructor(status, detail, requestId = null) {
    super(detail);
    this.status = status;
    this.requestId = requestId;
  }
}

/** Whether an error says that its request was given up for a newer one. */
export const isAborted = (error) => error?.name === "AbortError";

/**
 * Returns the service's answer to a request.
 *
 * A busy service (429) is asked once more after the time that it names; `onBusy` hears of it in seconds.
 * `body` is sent as JSON, `form` as it is; `key` is an operator's.
 */
export async function ask(path, { method, body, form, signal, key, onBusy, as = "json", from = ROOT } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const request = {
    method: method ?? (body !== undefined || form ? "POST" : "GET"),
    headers,
    body: form ?? (body === undefined ? undefined : JSON.stringify(body)),
    signal,
  };
  let answer = await send(new URL(path, from), request);
  if (answer.status === 429) {
    const seconds = Math.min(
      Math.max(Math.ceil(Number(answer.headers.get("Retry-After")) || 1), 1),
      PATIENCE,
    );
    onBusy?.(seconds);
    await wait(seconds * 1000, signal);
    answer = await send(new URL(path, from), request);
  }
  if (!answer.ok) throw await problemOf(answer);
  if (answer.status === 204) return null;
  return as === "text" ? answer.text() : answer.json();
}

async function send(url, request) {
  try {
    return await fetch(url, request);
  } catch (error) {
    if (isAborted(error)) throw error;
    throw new Problem(0, t(navigator.onLine ? "error.unreachable" : "error.offline"));
  }
}

async function problemOf(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // a proxy's page: its status says enough
  }
  const detail =
    typeof told.detail === "string" && told.detail
      ? told.detail
      : t("error.status", { status: answer.status });
  return new Problem(answer.status, detail, told.request_id ?? answer.headers.get("X-Request-ID"));
}

function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("given up", "AbortError"));
    });
  });
}
