// Appends every event of a Sidecar to FOLDER/events.jsonl, one JSON object a line, and resumes where it was killed.
// Node.js 20 or later, without packages:
//
//   node follow.mjs [URL] [FOLDER]

import fs from "node:fs";
import path from "node:path";
import { setTimeout as wait } from "node:timers/promises";

const [address = "http://127.0.0.1:19999/events", folder = "events"] = process.argv.slice(2);
const ATTEMPTS_MAX = 10; // in a row that bring nothing new
const SILENCE_MS = 45_000; // Sidecar sends an empty line after 15 s without an event, so this is a dead connection.
const SAVE_MS = 1_000;

// position.json: the log, the last event's id, and the length of events.jsonl then. It is written after the
// events. A kill in between leaves events that it does not know; they are cut off at the next start, and come again. So
// each event is in the file once.
fs.mkdirSync(folder, { recursive: true });
const positionFile = path.join(folder, "position.json");
const position = fs.existsSync(positionFile)
  ? JSON.parse(fs.readFileSync(positionFile, "utf8"))
  : { log: null, id: null, bytes: 0 };
const events = fs.openSync(path.join(folder, "events.jsonl"), "a");
if (fs.fstatSync(events).size < position.bytes) {
  console.error(`${positionFile} expects more bytes than events.jsonl has: remove both to start again`);
  process.exit(1);
}
fs.ftruncateSync(events, position.bytes);
let saved = Date.now();

function save() {
  fs.fsyncSync(events);
  // A new file that replaces the old one: a reader finds one of them, and never half of one.
  fs.writeFileSync(`${positionFile}.new`, JSON.stringify(position), { flush: true });
  fs.renameSync(`${positionFile}.new`, positionFile);
  saved = Date.now();
}

function take(line) {
  if (line === "") return; // a keep-alive
  const { id, data, text, missing } = JSON.parse(line); // `text` is data that is not JSON.
  if (missing) console.error(`events ${missing.from} to ${missing.to} cannot be had: ${missing.why}`);
  if (id === undefined || (data === undefined && text === undefined)) return; // the API version, for instance
  const bytes = Buffer.from(`${line}\n`);
  fs.writeSync(events, bytes);
  position.id = id;
  position.bytes += bytes.length;
}

class Refused extends Error {}

// Reads one connection to its end. Returns whether more can come.
async function follow() {
  const url = new URL(address);
  const headers = { Accept: "application/x-ndjson" };
  if (position.id === null) {
    url.searchParams.set("start_from", "0");
  } else {
    headers["Last-Event-ID"] = String(position.id);
    // Ids of another log (a node set up again) are an error then, instead of a wrong history.
    if (position.log) url.searchParams.set("log", position.log);
  }
  const silent = new AbortController();
  const alarm = setTimeout(() => silent.abort(new Error("no sign of life")), SILENCE_MS);
  try {
    const response = await fetch(url, { headers, signal: silent.signal });
    const { status } = response;
    if (status === 204) return false; // Nothing is left of what was asked for, which ends with until=N.
    if (status !== 200) {
      const text = `${status}: ${(await response.text()).trim()}`;
      throw status < 500 && status !== 408 && status !== 429 ? new Refused(text) : new Error(text);
    }
    position.log = response.headers.get("sidecar-log");
    let rest = "";
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      alarm.refresh();
      const lines = (rest + text).split("\n");
      rest = lines.pop(); // A line that is not whole yet, or never when the connection is cut.
      lines.forEach(take);
      if (Date.now() - saved > SAVE_MS) save();
    }
    return true;
  } finally {
    clearTimeout(alarm);
    save();
  }
}

for (let failures = 0; failures < ATTEMPTS_MAX; ) {
  const before = position.id;
  let reason = "the stream ended";
  try {
    if (!(await follow())) process.exit();
  } catch (error) {
    if (error instanceof Refused) {
      console.error(`refused: ${error.message}`);
      process.exit(1);
    }
    reason = error.cause?.message ?? error.message;
  }
  failures = position.id === before ? failures + 1 : 0;
  // Growing pauses, of random length so that many clients do not come back at the same moment.
  const pause = Math.min(30_000, 1_000 * 2 ** failures) * (0.5 + Math.random() / 2);
  console.error(`${reason}; connecting again in ${(pause / 1_000).toFixed(1)} s`);
  await wait(pause);
}
console.error(`no event after ${ATTEMPTS_MAX} attempts: is there a Sidecar at ${address}?`);
process.exit(1);
