// The page of Sidecar's admin server. It asks only the server that it came from, by relative addresses: `status` as an event
// stream, and `logs` with what is below it. Text of other parties (events, names, warnings) is inserted as text, never as markup.

const SAMPLES_MAX = 120; // seconds of the chart
const RATE_SAMPLES = 10; // seconds that a rate is the mean of
const ROWS_MAX = 500; // events in the page
const PAGE_EVENTS = 50; // events asked for at a time
const EMPTY_PAGES_MAX = 20; // pages without an event of the wanted kinds, before the user has to ask for more
const DAYS_LEFT_MIN = 3; // until a device is full: fewer are shown as a problem
const LOST_RANGES_MAX = 10; // shown of each log
const FOLLOWED_MAX = 1000; // events behind which following jumps to the newest
const WHOLE_CHARACTERS_MAX = 200_000; // of an event that is shown whole
const SILENCE_MAX = 10_000; // milliseconds without a status, which comes every second
const PAUSES = [1, 2, 5, 10]; // seconds between attempts to connect
const COLOURS = 12;
const KINDS_OPEN_MAX = 12; // kinds that are shown without being asked for
const TOKEN = "sidecar-token";
const ROW = "#events > li > button";
const ROW_IN_REACH = `${ROW}[tabindex="0"]`;

const byId = (id) => document.getElementById(id);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// Elements

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, text, mood) {
  let inner = node.firstElementChild;
  if (!inner) node.replaceChildren(inner = element("span"));
  inner.className = `mark ${mood}`;
  setText(inner, text);
}

const announce = (text) => setText(byId("announcement"), text);

/// A table whose cells stay, so that focus and selection survive an update.
class Table {
  constructor(caption, columns) {
    this.columns = columns;
    const head = columns.map(([name, kind]) => element("th", { scope: "col", className: kind ?? "", textContent: name }));
    this.body = element("tbody");
    this.root = element("table", {}, element("caption", { textContent: caption }), element("thead", {}, element("tr", {}, ...head)), this.body);
  }

  // A cell is a text, or a text with a mood.
  show(rows) {
    this.root.hidden = rows.length === 0;
    while (this.body.rows.length > rows.length) this.body.deleteRow(-1);
    rows.forEach((cells, at) => {
      const row = this.body.rows[at] ?? this.body.appendChild(this.emptyRow());
      cells.forEach((cell, place) => {
        if (!Array.isArray(cell)) return setText(row.cells[place], cell);
        const [text, mood, colour] = cell;
        if (colour === undefined) return mark(row.cells[place], text, mood);
        if (row.cells[place].textContent === text) return;
        row.cells[place].replaceChildren(element("span", { className: `swatch kind-${colour}`, ariaHidden: "true" }), text);
      });
    });
  }

  emptyRow() {
    const cell = ([, kind], place) => element(place === 0 ? "th" : "td", place === 0 ? { scope: "row" } : { className: kind ?? "" });
    return element("tr", {}, ...this.columns.map(cell));
  }
}

// Numbers as people read them

const whole = new Intl.NumberFormat("en");
const rounded = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const count = (number) => whole.format(number);
const counted = (number, name) => `${count(number)} ${name}${number === 1 ? "" : "s"}`;
// Always to a tenth below a hundred, so that a column of rates is aligned and does not jump.
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const perSecond = (rate) => (rate === 0 || rate >= 99.95 ? count(Math.round(rate)) : tenths.format(rate));

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const at = Math.min(Math.floor(Math.log2(Math.max(number, 1)) / 10), units.length - 1);
  return `${rounded.format(number / 1024 ** at)} ${units[at]}`;
}

function duration(seconds) {
  const units = [["years", 31_557_600], ["days", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const [name, size] = units.find(([, size]) => seconds >= 2 * size) ?? units.at(-1);
  return `${count(Math.max(Math.floor(seconds / size), 0))} ${name}`;
}

function age(time, now) {
  if (!time) return "never";
  const seconds = (Date.parse(now) - Date.parse(time)) / 1000;
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

// Requests

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Some browsers keep nothing for some pages.
let token = (() => {
  try { return sessionStorage.getItem(TOKEN); } catch { return null; }
})();

async function ask(address, { accept = "application/json", signal } = {}) {
  const headers = { Accept: accept };
  if (token) headers.Authorization = `Bearer ${token}`;
  // Browsers have words of their own for a server that is gone.
  const response = await fetch(address, { headers, signal, cache: "no-store" }).catch(() => { throw new Error("the server cannot be reached"); });
  if (response.ok) return response;
  const text = await response.text();
  let message = text.trim();
  try { message = JSON.parse(text).message ?? message; } catch { /* it is a text */ }
  throw new Refused(response.status, message || `the server answered ${response.status}`);
}

// A number that the language cannot hold stays as it was written, where the browser can keep it.
function exact(_, value, context) {
  const isCut = typeof value === "number" && context?.source && String(value) !== context.source;
  return isCut && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
}

// The token

let tokenGiven = () => {};

function needToken(problem) {
  byId("token-form").hidden = false;
  setText(byId("token-problem"), problem);
  byId("token").focus();
  return new Promise((resolve) => { tokenGiven = resolve; });
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  try { sessionStorage.setItem(TOKEN, token); } catch { /* it lasts until the page is closed */ }
  byId("token").value = "";
  byId("token-form").hidden = true;
  tokenGiven();
});

// The status

async function followStatus() {
  for (let failures = 0; ; failures += 1) {
    let problem = failures > 1 ? "cannot reach the server; trying again" : "reconnecting…";
    try {
      await readStatus(() => { failures = 0; });
    } catch (error) {
      if (error.status === 401) {
        setConnection("a token is needed", "");
        showStale("The server wants a token.");
        await needToken(token ? "The server does not know this token." : "");
        continue;
      }
      if (error.status) problem = error.message;
    }
    setConnection(problem, problem === "reconnecting…" ? "" : "bad");
    if (failures > 0) showStale("The server does not answer.");
    await pause(PAUSES[Math.min(failures, PAUSES.length - 1)]);
  }
}

async function readStatus(received) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MAX);
  try {
    const { body } = await ask("status", { accept: "text/event-stream", signal: silence.signal });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MAX);
      const messages = (text + value).split("\n\n");
      text = messages.pop();
      const newest = messages.findLast((message) => message.startsWith("data: "));
      if (!newest) continue;
      received();
      showStatus(JSON.parse(newest.slice("data: ".length)));
    }
  } finally {
    clearTimeout(timer);
  }
}

let connection = "";

function setConnection(text, mood) {
  mark(byId("connection"), text, mood);
  if (connection && connection !== text) announce(`This page: ${text}`);
  connection = text;
}

// What the page has is of another time, which must not look like good news.
function showStale(problem) {
  if (!shown) return;
  mark(byId("readiness"), "unknown", "");
  setText(byId("stale"), `${problem} What is below is from ${clock(shown.now)}.`);
  byId("stale").hidden = false;
  document.body.classList.add("stale");
  document.title = "No answer – Sidecar";
}

let shown = null; // the newest status
const past = []; // the last ones, for rates

function showStatus(status) {
  if (status.error) {
    setConnection(status.error, "bad");
    return showStale("The server cannot make its status.");
  }
  setConnection("live", "good");
  const before = shown;
  shown = status;
  const seconds = secondsBetween(before, status);
  if (past.push(status) > RATE_SAMPLES + 1) past.shift();
  byId("stale").hidden = true;
  document.body.classList.remove("stale");
  setText(byId("version"), [status.version, status.commit].filter(Boolean).join(" · "));
  setText(byId("uptime"), duration(status.uptime_seconds));
  mark(byId("readiness"), status.is_ready ? "ready" : "not ready", status.is_ready ? "good" : "bad");
  showProblems(problems(status), status.is_ready);
  showLogs(status, before, seconds);
  showServers(status, past[0], secondsBetween(past[0], status));
  byId("warned").hidden = false;
  byId("skip").hidden = byId("explorer").hidden = status.logs.length === 0;
  showWarnings(status.warnings);
  explorer.statusCame(status);
}

function secondsBetween(before, status) {
  return before ? (Date.parse(status.now) - Date.parse(before.now)) / 1000 : 0;
}

const isAway = (source) => source.status !== "connected" && source.status !== "preparing" && source.status !== "connecting";
const stateOf = ({ status }) => status.replaceAll("_", " ");
const lostOf = ({ lost }) => lost.missing + lost.damaged + lost.marked;

// What is not as it should be, the gravest first.
function problems(status) {
  const found = status.is_ready ? [] : [`Not ready: ${status.why_not_ready}.`];
  for (const log of status.logs) {
    const add = (text) => found.push(`Log ${log.name}: ${text}.`);
    // This may be the reason for not being ready, which is named then.
    if (log.stopped && !status.why_not_ready?.includes(log.stopped)) add(`nothing is stored: ${log.stopped}`);
    if (log.waits_for_room) add("the disk is full; storing waits for room");
    else if (isNearlyFull(log.disk)) add(`the disk is ${untilFull(log.disk)}`);
    for (const source of log.nodes.filter(isAway)) add(`the source ${source.name} is ${stateOf(source)}`);
    for (const { name } of log.exporters.filter(({ is_connected }) => !is_connected)) add(`the exporter ${name} does not reach its database`);
    // Those that a mark names are settled.
    const lost = log.lost.missing + log.lost.damaged;
    if (lost) add(`${counted(lost, "stored event")} ${lost === 1 ? "is" : "are"} lost`);
  }
  for (const { log, is_connected } of status.grpc_streams ?? []) if (!is_connected) found.push(`Log ${log}: its gRPC stream is not connected.`);
  if (status.rest?.is_database_connected === false && status.is_ready) found.push("REST: the database does not answer.");
  return found;
}

let problemsAnnounced = "";

function showProblems(found, isReady) {
  const list = byId("problems").querySelector("ul");
  byId("problems").hidden = found.length === 0;
  while (list.children.length > found.length) list.lastElementChild.remove();
  found.forEach((text, at) => setText(list.children[at] ?? list.appendChild(element("li")), text));
  const summary = isReady ? found.length && counted(found.length, "problem") : "Not ready";
  document.title = summary ? `${summary} – Sidecar` : "Sidecar";
  const text = found.join(" ");
  if (text !== problemsAnnounced) announce(text || "No problems any more");
  problemsAnnounced = text;
}

const cards = new Map(); // by the names of their logs

function showLogs(status, before, seconds) {
  for (const [name, card] of cards) {
    if (status.logs.some((log) => log.name === name)) continue;
    card.root.remove();
    cards.delete(name);
  }
  for (const log of status.logs) {
    if (!cards.has(log.name)) {
      const card = new LogCard(log);
      cards.set(log.name, card);
      byId("logs").append(card.root);
    }
    const previous = before?.logs.find(({ name }) => name === log.name);
    const stream = status.grpc_streams?.find((stream) => stream.log === log.name);
    cards.get(log.name).show(log, stream, status.now, previous, seconds);
  }
}

class LogCard {
  constructor(log) {
    const heading = element("h2", { id: `log-${log.name}`, textContent: `Log ${log.name} ` });
    if (log.dialect !== log.name) heading.append(element("small", { textContent: log.dialect }));
    this.tiles = element("dl", { className: "tiles" });
    this.tileOf = new Map();
    this.chart = new Chart();
    this.sources = new Table("Sources", [["Source"], ["State"], ["Last event"], ["Received", "number extra"], ["Reconnects", "number extra"]]);
    this.followers = new Table("Views and exporters", [["Name"], ["State"], ["Events behind", "number"]]);
    this.readers = new Table("Subscribers", [["Stream"], ["Open", "number"], ["Events behind", "number"], ["Slowest client"]]);
    this.lost = new Table("Lost events", [["Sequences"], ["Kind"], ["Why"]]);
    const tables = [this.sources, this.readers, this.followers, this.lost].map(({ root }) => root);
    this.root = element("section", { className: "card" }, heading, this.tiles, this.chart.root, element("div", { className: "tables" }, ...tables));
    this.root.setAttribute("aria-labelledby", heading.id);
  }

  show(log, stream, now, previous, seconds) {
    if (previous && seconds > 0) this.chart.add(log.stored_by_kind, previous.stored_by_kind, seconds);
    this.chart.show(log.stored_by_kind);
    this.showTiles(log, now);
    const mood = (status) => (status === "connected" ? "good" : ["preparing", "connecting", "reconnecting"].includes(status) ? "" : "bad");
    const state = (source) => [stateOf(source), mood(source.status)];
    const sources = log.nodes.map((node) => [node.name, state(node), age(node.last_event_at, now), count(node.received), count(node.reconnects)]);
    if (stream) sources.push(["gRPC upstream", state({ status: stream.is_connected ? "connected" : "reconnecting" }), age(stream.last_event_at, now), count(stream.received), count(stream.reconnects)]);
    this.sources.show(sources);
    const views = log.views.map(({ name, lag }) => [`view ${name}`, ["open", "good"], count(lag)]);
    const exporters = log.exporters.map(({ name, lag, is_connected }) => [`exporter ${name}`, is_connected ? ["connected", "good"] : ["away", "bad"], count(lag)]);
    this.followers.show([...views, ...exporters]);
    this.readers.show(log.streams.classes.filter(({ open }) => open > 0).map((reader) => [reader.class, count(reader.open), count(reader.lag_max), reader.slowest ?? "–"]));
    this.lost.show(log.lost.ranges.slice(0, LOST_RANGES_MAX).map((range) => [`${range.first_sequence} to ${range.last_sequence}`, range.kind, range.reason ?? ""]));
  }

  showTiles(log, now) {
    const { disk, streams } = log;
    const events = log.newest === null ? 0 : log.newest - log.oldest + 1;
    const lines = (...parts) => parts.filter(Boolean).join("\n");
    this.tile("Newest event", log.newest === null ? "none yet" : count(log.newest), lines(disk.newest_received_at && `received ${age(disk.newest_received_at, now)}`, log.newest_height != null && `block ${count(log.newest_height)}`));
    this.tile("Events per second", this.chart.isEmpty() ? "…" : perSecond(this.chart.rate()), `${count(log.stored)} since the start`);
    this.tile("Events kept", count(events), disk.oldest_received_at ? `since ${clock(disk.oldest_received_at).split(" ")[0]}` : "");
    this.tile("On disk", disk.bytes === null ? "unknown" : bytes(disk.bytes), lines(counted(disk.segments ?? 0, "segment"), retention(disk)));
    this.tile("Disk left", disk.available_bytes === null ? "unknown" : bytes(disk.available_bytes), untilFull(disk), log.waits_for_room || isNearlyFull(disk));
    const slowest = streams.classes.reduce((most, { lag_max }) => Math.max(most, lag_max), 0);
    this.tile("Subscribers", count(streams.open), slowest ? `the slowest is ${counted(slowest, "event")} behind` : streams.open ? "none is behind" : "");
    if (lostOf(log)) this.tile("Lost events", count(lostOf(log)), "see `sidecar-log verify`", true);
    if (log.stopped) this.tile("Storing", "stopped", log.stopped, true);
    else this.tileOf.get("Storing")?.root.remove(), this.tileOf.delete("Storing");
  }

  tile(name, value, note, isBad = false) {
    let tile = this.tileOf.get(name);
    if (!tile) {
      tile = { value: element("dd", { className: "value" }), note: element("dd", { className: "note" }) };
      tile.root = element("div", {}, element("dt", { textContent: name }), tile.value, tile.note);
      this.tileOf.set(name, tile);
      this.tiles.append(tile.root);
    }
    setText(tile.value, value);
    setText(tile.note, note);
    tile.value.classList.toggle("problem", isBad);
  }
}

function retention({ retention_bytes_max, retention_seconds_max }) {
  const limits = [];
  if (retention_bytes_max !== null) limits.push(bytes(retention_bytes_max));
  if (retention_seconds_max !== null) limits.push(duration(retention_seconds_max));
  return limits.length ? `keeps ${limits.join(" or ")}` : "keeps everything";
}

const isNearlyFull = ({ days_until_full }) => (days_until_full ?? Infinity) < DAYS_LEFT_MIN;

function untilFull({ available_bytes, days_until_full, bytes_per_day }) {
  if (available_bytes === null) return "";
  if (days_until_full !== null) return `full in ${duration(days_until_full * 86_400)}`;
  return bytes_per_day === null ? "no forecast in the first hour" : "retention ends the growth";
}

/// Events per second by kind: stacked bars, one a second, and a table of the figures.
class Chart {
  constructor() {
    this.samples = [];
    this.kinds = []; // in the order in which they were first seen, which gives them their colours
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("viewBox", `0 0 ${SAMPLES_MAX} 100`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", "Events per second by kind over the last two minutes; the table has the figures");
    this.most = element("span");
    const caption = element("figcaption", {}, this.most);
    const axis = element("p", { className: "axis", ariaHidden: "true" }, element("span", { textContent: "two minutes ago" }), element("span", { textContent: "now" }));
    this.table = new Table("Stored by kind", [["Kind"], ["Per second", "number"], ["Since the start", "number"]]);
    this.root = element("div", { className: "chart" }, element("figure", {}, caption, this.svg, axis), this.table.root);
  }

  isEmpty() {
    return this.samples.length === 0;
  }

  add(counts, before, seconds) {
    const rates = Object.entries(counts).map(([kind, count]) => [kind, Math.max(count - (before[kind] ?? 0), 0) / seconds]);
    this.samples.push(new Map(rates));
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
  }

  rate(kind) {
    const newest = this.samples.slice(-RATE_SAMPLES);
    const of = (sample) => (kind ? sample.get(kind) ?? 0 : [...sample.values()].reduce((sum, rate) => sum + rate, 0));
    return newest.length ? newest.reduce((sum, sample) => sum + of(sample), 0) / newest.length : 0;
  }

  show(counts) {
    for (const kind of Object.keys(counts)) if (!this.kinds.includes(kind)) this.kinds.push(kind);
    const totals = this.samples.map((sample) => [...sample.values()].reduce((sum, rate) => sum + rate, 0));
    const most = Math.max(...totals, 0);
    setText(this.most, most ? `Up to ${perSecond(most)} events per second` : this.isEmpty() ? "Events per second" : "No events in this time");
    const left = SAMPLES_MAX - this.samples.length;
    const heights = this.samples.map(() => 0);
    this.kinds.forEach((kind, number) => {
      let path = this.svg.children[number];
      if (!path) {
        path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("class", `kind-${number % COLOURS}`);
        this.svg.append(path);
      }
      const bar = (sample, at) => {
        const height = most ? ((sample.get(kind) ?? 0) / most) * 98 : 0;
        if (height === 0) return "";
        heights[at] += height;
        return `M${left + at} ${(100 - heights[at]).toFixed(2)}h.85v${height.toFixed(2)}h-.85z`;
      };
      path.setAttribute("d", this.samples.map(bar).join(""));
    });
    this.root.hidden = this.kinds.length === 0;
    this.table.show(this.kinds.map((kind, number) => [[kind, "", number % COLOURS], perSecond(this.rate(kind)), count(counts[kind] ?? 0)]));
  }
}

const servers = {
  rpc: new Table("JSON-RPC", [["Node"], ["State"], ["In flight", "number"]]),
  calls: new Table("Calls by method", [["Method"], ["Per second", "number"], ["Since the start", "number"]]),
  rest: new Table("REST", [["State"], ["Answered", "number"], ["Per second", "number"], ["In flight", "number"]]),
};
document.querySelector("#servers .tables").append(...Object.values(servers).map(({ root }) => root));

function showServers({ rpc, rest }, before, seconds) {
  byId("servers").hidden = !rpc && !rest;
  const rate = (now, then) => (seconds > 0 && then !== undefined ? perSecond(Math.max(now - then, 0) / seconds) : "…");
  servers.rpc.show(rpc ? [[rpc.node, rpc.is_connected ? ["connected", "good"] : ["away", "bad"], count(rpc.in_flight)]] : []);
  const calls = Object.entries(rpc?.calls ?? {}).sort(([, one], [, other]) => other - one);
  servers.calls.show(calls.map(([method, calls]) => [method, rate(calls, before?.rpc && (before.rpc.calls[method] ?? 0)), count(calls)]));
  const state = rest?.is_database_connected === false ? ["database away", "bad"] : ["serving", "good"];
  servers.rest.show(rest ? [[state, count(rest.answered), rate(rest.answered, before?.rest?.answered), count(rest.in_flight)]] : []);
}

let newestWarning = 0;

function showWarnings(warnings) {
  const list = byId("warnings");
  const isOfAnotherRun = (warnings.at(-1)?.number ?? 0) < newestWarning;
  if (isOfAnotherRun) list.replaceChildren();
  for (const { number, at, level, target, text } of warnings) {
    if (!isOfAnotherRun && number <= newestWarning) continue;
    const time = element("time", { dateTime: at, textContent: clock(at), title: target });
    const severity = element("span", {}, element("span", { className: level === "ERROR" ? "mark bad" : "mark", textContent: level.toLowerCase() }));
    list.prepend(element("li", {}, time, severity, element("span", { textContent: text })));
  }
  while (list.children.length > 50) list.lastElementChild.remove();
  newestWarning = warnings.at(-1)?.number ?? 0;
  byId("no-warnings").hidden = list.children.length > 0;
  // What scrolls must be within reach of the keyboard.
  list.tabIndex = list.scrollHeight > list.clientHeight ? 0 : -1;
}

function clock(time) {
  const date = new Date(time);
  const day = [date.getFullYear(), date.getMonth() + 1, date.getDate()].map((part) => String(part).padStart(2, "0")).join("-");
  return `${day} ${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

// The events

const explorer = {
  logs: [],
  earlier: null, // the sequence before which there may be more
  later: null, // the sequence with which the next event may come
  isBusy: false,
  search: 0, // which one; the answers to those before are dropped

  get log() {
    return this.logs.find(({ name }) => name === byId("log").value);
  },

  statusCame(status) {
    const names = status.logs.map(({ name }) => name).join();
    if (names !== this.names) {
      this.names = names;
      this.readLogs();
    }
    const log = status.logs.find(({ name }) => name === byId("log").value);
    if (byId("follow").checked && log && this.later !== null && log.newest >= this.later) this.follow(log.newest);
  },

  async readLogs() {
    try {
      this.logs = (await (await ask("logs")).json()).logs;
    } catch (error) {
      this.names = null; // with the next status
      return setText(byId("explorer-problem"), error.message);
    }
    const before = byId("log").value || wished.get("log");
    byId("log").replaceChildren(...this.logs.map(({ name }) => element("option", { value: name, textContent: name, selected: name === before })));
    this.logChosen();
    this.begin();
  },

  logChosen() {
    const { kinds, has_heights } = this.log ?? { kinds: [], has_heights: false };
    const chosen = new Set((wished.get("kinds") ?? "").split(","));
    const boxes = kinds.map((kind) => element("label", { className: "check" }, element("input", { type: "checkbox", value: kind, checked: chosen.has(kind) }), kind));
    byId("kinds").replaceChildren(...boxes);
    byId("kinds-choice").hidden = kinds.length < 2;
    byId("kinds-choice").open = kinds.length <= KINDS_OPEN_MAX;
    byId("start").querySelector("[value=height]").disabled = !has_heights;
    if (!has_heights && byId("start").value === "height") byId("start").value = "newest";
    this.startChosen();
  },

  startChosen() {
    for (const field of ["sequence", "height", "time"]) {
      byId(`${field}-field`).hidden = byId("start").value !== field;
      byId(field).required = byId("start").value === field;
    }
  },

  kinds() {
    return [...byId("kinds").querySelectorAll(":checked")].map(({ value }) => value);
  },

  // Shows events from the place that the form names.
  async begin() {
    setText(byId("kinds-chosen"), this.kinds().join(", ") || "all");
    const start = byId("start").value;
    const at = start === "newest" ? "" : byId(start).value.trim();
    if (!this.log || (start !== "newest" && !at)) return;
    this.search += 1;
    this.isBusy = false;
    [this.earlier, this.later] = [null, null];
    byId("events").replaceChildren();
    setText(byId("found"), "");
    [byId("earlier").hidden, byId("later").hidden] = [true, true];
    remember({ log: this.log.name, start, at, kinds: this.kinds().join() });
    const parameter = { sequence: "from", height: "from_height", time: "since" }[start];
    if (!parameter) await this.load("up", {});
    else await this.load("down", { [parameter]: start === "time" ? new Date(at).toISOString() : at });
  },

  // Loads one more page: `down` the later events, `up` the earlier ones.
  async load(direction, from) {
    if (this.isBusy) return;
    this.isBusy = true;
    const search = this.search;
    setText(byId("explorer-problem"), "");
    try {
      for (let page = 0; page < EMPTY_PAGES_MAX; page += 1) {
        const answer = await this.ask(direction, from);
        if (search !== this.search) return;
        const { events, missing, next, head } = answer;
        const isFirst = this.later === null;
        if (direction === "up") {
          this.earlier = next;
          if (isFirst) this.later = head;
          this.add("up", events.reverse(), missing);
        } else {
          this.later = next ?? head;
          if (isFirst) this.earlier = events.length ? Number(events[0].sequence) : Math.min(Number(from.from ?? head), head);
          this.add("down", events, missing);
        }
        const isOver = direction === "up" ? next === null : this.later >= head;
        this.showFound(isOver);
        if (events.length || isOver) break;
        from = direction === "up" ? { before: next } : { from: next };
      }
    } catch (error) {
      if (search === this.search) setText(byId("explorer-problem"), `The events cannot be shown: ${error.message}`);
    } finally {
      if (search === this.search) this.isBusy = false;
    }
  },

  async ask(direction, from) {
    const query = new URLSearchParams({ ...from, [direction === "up" ? "newest" : "limit"]: PAGE_EVENTS });
    const kinds = this.kinds();
    if (kinds.length) query.set("types", kinds.join());
    const response = await ask(`logs/${encodeURIComponent(this.log.name)}/events?${query}`);
    return JSON.parse(await response.text(), exact);
  },

  add(direction, events, missing) {
    const list = byId("events");
    const frame = byId("list");
    const wasAtEnd = frame.scrollHeight - frame.scrollTop - frame.clientHeight < 40;
    const rows = [...events.map((event) => [Number(event.sequence), eventRow(event)]), ...missing.map((range) => [Number(range.from), gapRow(range)])];
    rows.sort(([one], [other]) => one - other);
    const items = rows.map(([, row]) => row);
    if (direction === "up") {
      const height = frame.scrollHeight;
      list.prepend(...items);
      frame.scrollTop += frame.scrollHeight - height;
    } else {
      list.append(...items);
      if (byId("follow").checked && wasAtEnd) frame.scrollTop = frame.scrollHeight;
    }
    while (list.children.length > ROWS_MAX) {
      const gone = direction === "up" ? list.lastElementChild : list.firstElementChild;
      if (direction === "up") this.later = Number(gone.dataset.sequence);
      else this.earlier = Number(gone.dataset.sequence) + 1;
      gone.remove();
    }
    if (!list.querySelector(ROW_IN_REACH)) {
      const row = list.querySelector(ROW);
      if (row) row.tabIndex = 0;
    }
  },

  async follow(newest) {
    if (this.isBusy) return;
    if (newest - this.later > FOLLOWED_MAX) {
      byId("events").replaceChildren();
      [this.earlier, this.later] = [null, null];
      return this.load("up", {});
    }
    const wasLast = byId("events").lastElementChild;
    await this.load("down", { from: this.later });
    for (let row = wasLast?.nextElementSibling; row; row = row.nextElementSibling) row.classList.add("new");
  },

  showFound(isOver) {
    const rows = byId("events").children.length;
    const kinds = this.kinds().length ? " of these kinds" : "";
    const none = isOver ? `No events${kinds} here.` : `No events${kinds} so far: there are more to look through.`;
    setText(byId("found"), rows ? `${counted(rows, "event")} shown, the newest at the end.` : none);
    if (!byId("follow").checked) announce(byId("found").textContent);
    byId("earlier").hidden = this.earlier === null;
    byId("later").hidden = this.later === null || byId("follow").checked;
  },
};

function gapRow({ from, to, why }) {
  const row = element("li", { className: "gap", textContent: from === to ? `Event ${from} is missing: ${why}.` : `Events ${from} to ${to} are missing: ${why}.` });
  row.dataset.sequence = from;
  return row;
}

function eventRow(event) {
  const sequence = String(event.sequence?.rawJSON ?? event.sequence);
  const span = (className, text) => element("span", { className, textContent: text });
  // What nearly every payload begins with is the event's kind, which is there already.
  const inner = event.payload?.[event.kind] ?? event.payload;
  const summary = JSON.stringify(inner).slice(0, 300);
  const button = element("button", { type: "button", ariaExpanded: "false", tabIndex: -1 }, span("sequence", sequence), span("at", clock(event.received_at)), span("kind", event.kind), span("summary", summary));
  const row = element("li", {}, button);
  row.dataset.sequence = sequence;
  button.addEventListener("click", () => {
    const isOpen = button.ariaExpanded === "true";
    button.ariaExpanded = String(!isOpen);
    if (isOpen) row.lastElementChild.remove();
    else row.append(wholeEvent(event));
    row.scrollIntoView({ block: "nearest" });
  });
  return row;
}

function wholeEvent({ source, received_at, header, payload }) {
  const facts = { Source: source || "–", Network: header.network_name || "–", "API version": header.api_version, Received: received_at };
  const entries = Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
  const text = JSON.stringify(payload, null, 2);
  const isCut = text.length > WHOLE_CHARACTERS_MAX;
  const pre = element("pre", { textContent: isCut ? `${text.slice(0, WHOLE_CHARACTERS_MAX)}\n… (${count(text.length)} characters in all)` : text, tabIndex: 0 });
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", "The event's payload");
  const tools = element("div", { className: "tools" }, element("dl", { className: "facts" }, ...entries));
  if (navigator.clipboard) {
    const copy = element("button", { type: "button", textContent: "Copy payload" });
    copy.addEventListener("click", async () => {
      const say = (text) => { setText(copy, text); announce(text); };
      await navigator.clipboard.writeText(JSON.stringify(payload)).then(() => say("Copied"), () => say("It could not be copied"));
    });
    tools.append(copy);
  }
  return element("div", { className: "whole" }, tools, pre);
}

// The address keeps what is shown, so that it can be passed on.

const wished = new URLSearchParams(location.hash.slice(1));

function remember(parts) {
  for (const [name, value] of Object.entries(parts)) value ? wished.set(name, value) : wished.delete(name);
  history.replaceState(null, "", `#${wished}`);
}

if (["sequence", "height", "time"].includes(wished.get("start"))) {
  byId("start").value = wished.get("start");
  byId(wished.get("start")).value = wished.get("at") ?? "";
}
explorer.startChosen();

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  explorer.begin();
});
byId("log").addEventListener("change", () => {
  wished.delete("kinds");
  explorer.logChosen();
  explorer.begin();
});
byId("start").addEventListener("change", () => {
  explorer.startChosen();
  if (byId("start").value === "newest") explorer.begin();
  else byId(byId("start").value).focus();
});
byId("kinds").addEventListener("change", () => explorer.begin());
byId("follow").addEventListener("change", () => {
  byId("later").hidden = explorer.later === null || byId("follow").checked;
  if (!byId("follow").checked) return;
  byId("list").scrollTop = byId("list").scrollHeight;
  if (shown) explorer.statusCame(shown);
});
// The tabulator reaches one of the rows, and the arrows the others.
byId("events").addEventListener("focusin", ({ target }) => {
  if (!target.matches(ROW)) return;
  for (const row of byId("events").querySelectorAll(ROW_IN_REACH)) row.tabIndex = -1;
  target.tabIndex = 0;
});
byId("events").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.matches(ROW)) return;
  const rows = [...byId("events").querySelectorAll(ROW)];
  event.preventDefault();
  rows[rows.indexOf(event.target) + step]?.focus();
});
byId("earlier").addEventListener("click", () => explorer.load("up", { before: explorer.earlier }));
byId("later").addEventListener("click", () => explorer.load("down", { from: explorer.later }));

const zone = new Intl.DateTimeFormat("en", { timeZoneName: "longOffset" }).formatToParts().find(({ type }) => type === "timeZoneName").value;
for (const node of document.querySelectorAll(".zone")) setText(node, zone.replace("GMT", "UTC").replace("+00:00", ""));

followStatus();
