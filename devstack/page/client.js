// A client of protocol v1 (docs/protocol.md). No DOM in here: `handlers` gets what happened.
//
//   status(status)          {phase, code?, text?, retryAt?}; phases below
//   notifications(batch)    [{n, known, replayed}], before they are acknowledged; persist nothing yourself
//   reset()                 the server cannot tell what this device missed: drop what you hold, all follows
//   page(frame, kind)       inbox rows; kind is what requestPage() was given
//   state(ids, to)          marked on one of the user's devices, or (to "recalled") taken back by the sender
//   unread(count)           the unread count changed
//   acked(ids)              acknowledged to the server
//
// An item is acknowledged only after `handlers.notifications` returned and `store.save` kept it.

import { Commands, IDS_PER_FRAME_MAX } from "./commands.js";

export const SUBPROTOCOL = "herald.v1";

// phase -> what the user's connection is doing
export const PHASES = ["connecting", "syncing", "live", "waiting", "paused", "stopped"];

// Close codes that end it; every other one reconnects. The same table as the server's.
export const FINAL_CLOSES = {
  1000: "The server ended this session.",
  1002: "The server saw a protocol error.",
  1003: "The server accepts text frames only.",
  1007: "The server saw text that is not UTF-8.",
  1009: "A message was too big for the server.",
  4400: "The server could not read what this page sent.",
  4403: "Access was withdrawn, or the tenant is suspended.",
  4409: "This device connected somewhere else, in another tab for example.",
};

const ERROR_TEXT = {
  token: "The token was refused.",
  origin: "This page's address is not on the tenant's list of origins.",
  suspended: "The tenant is suspended.",
  too_many_devices: "This user already has the most devices allowed.",
};

const BACKOFF_BASE_MS = 500;
const BACKOFF_MAX_MS = 30_000;
const STABLE_MS = 5_000; // live for this long: the next trouble starts a new backoff
const CONNECT_TIMEOUT_MS = 10_000;
const PONG_DUE_MS = 10_000;
const PROBE_DUE_MS = 3_000;
const COUNTERS_LAG_MS = 800; // after the last live item: fetch exact counters
const TOKEN_REFUSALS_MAX = 3;
const RECALLED_MAX = 1_000; // remembered: a recall may overtake the notification
const REAUTH_AT = 0.75; // of the token's life

export function encodeCursor(cursor) {
  return btoa(JSON.stringify(cursor)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** Full jitter: anywhere between nothing and the doubling bound. */
export function backoffMs(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));
}

export class HeraldClient {
  #wsUrl;
  #device;
  #fetchToken;
  #store;
  #handlers;
  #socket = null;
  #phase = "paused";
  #timers = {};
  #attempt = 0;
  #liveSince = 0;
  #floorMs = 0; // the server's wish for the next reconnect
  #token = null; // {text, fetchedAt, expiresAt}
  #tokenRefusals = 0;
  #lastError = null;
  #recovered = true; // of the current session; "pending" until its resumed
  #sessionIds = new Set();
  #recalled = new Set(); // ids
  #batch = [];
  #flushQueued = false;
  #channel = new MessageChannel(); // a task soon, also in a background tab, where timers are throttled
  #counters;
  #drift = 0; // what we know beyond the last counters
  #commands;
  #pongOwed = false;

  /** fetchToken() -> {token, expires_in}; store: see store.js. */
  constructor({ wsUrl, device, fetchToken, store, handlers }) {
    this.#wsUrl = wsUrl;
    this.#device = device;
    this.#fetchToken = fetchToken;
    this.#store = store;
    this.#handlers = handlers;
    this.#counters = store.counters ?? { unread: 0, rev: -1 };
    this.#commands = new Commands(store, (frame) => this.#send(frame));
    this.#channel.port1.onmessage = () => this.#flush();
  }

  get phase() {
    return this.#phase;
  }

  get unread() {
    return Math.max(0, this.#counters.unread + this.#drift);
  }

  connect() {
    if (this.#socket !== null || this.#phase === "connecting") return;
    this.#attempt = 0;
    this.#floorMs = 0;
    this.#tokenRefusals = 0;
    this.#open();
  }

  /** Close and stay closed until connect(). */
  disconnect() {
    this.#flush();
    this.#drop(1000);
    this.#setPhase("paused");
  }

  /** The network may have changed: reconnect now when waiting, else see whether the socket still answers. */
  nudge() {
    if (this.#phase === "waiting") this.connect();
    else if (this.#phase === "live" || this.#phase === "syncing") this.#ping(PROBE_DUE_MS);
  }

  /** Ask for inbox rows, newest first, before the id `before` (null: the newest). One at a time. */
  requestPage(before, limit, kind) {
    return this.#commands.wantPage(before, limit, kind);
  }

  /** Mark on all devices of the user: kept until the server says so, also over a reload. */
  mark(ids, to, unreadChange) {
    for (const id of ids) this.#store.marks.set(id, to);
    this.#store.flag(ids, to);
    this.#drift += unreadChange;
    this.#store.save();
    this.#handlers.unread(this.unread);
    this.#commands.marked();
  }

  // --- the connection -------------------------------------------------------
  async #open() {
    clearTimeout(this.#timers.retry);
    this.#setPhase("connecting");
    const mine = {}; // stands in for the socket while the token is fetched
    this.#socket = mine;
    let token;
    try {
      token = await this.#freshToken();
    } catch (error) {
      if (this.#socket === mine) this.#tokenFailed(error);
      return;
    }
    if (this.#socket !== mine) return;
    const url = new URL(this.#wsUrl);
    url.searchParams.set("device", this.#device);
    if (this.#store.cursor !== null) url.searchParams.set("cursor", encodeCursor(this.#store.cursor));
    const socket = new WebSocket(url, [SUBPROTOCOL, `bearer.${token}`]);
    this.#socket = socket;
    this.#lastError = null;
    socket.onmessage = (event) => {
      if (this.#socket === socket) this.#receive(event.data);
    };
    socket.onclose = (event) => {
      if (this.#socket === socket) this.#closed(event.code);
    };
    this.#after("connect", CONNECT_TIMEOUT_MS, () => this.#lost());
  }

  async #freshToken() {
    const now = Date.now();
    const held = this.#token;
    if (held !== null && held.expiresAt - now > (held.expiresAt - held.fetchedAt) * (1 - REAUTH_AT)) return held.text;
    const answer = await this.#fetchToken();
    this.#token = { text: answer.token, fetchedAt: now, expiresAt: now + answer.expires_in * 1000 };
    return this.#token.text;
  }

  #tokenFailed(error) {
    this.#socket = null;
    if (error.final) this.#setPhase("stopped", { text: error.message });
    else this.#retry(undefined, error.message);
  }

  /** The socket is dead or silent: do not wait for its close handshake. */
  #lost() {
    this.#drop(4000);
    this.#retry(1006);
  }

  #drop(code) {
    const socket = this.#socket;
    this.#socket = null;
    this.#stopTimers();
    this.#pongOwed = false;
    this.#commands.stop();
    this.#batch = []; // not acknowledged and beyond the cursor: the next session brings them again
    if (socket instanceof WebSocket) {
      socket.onmessage = null;
      socket.onclose = null;
      socket.close(code);
    }
  }

  #closed(code) {
    this.#drop(1000);
    const error = this.#lastError;
    if (code === 4401 || error === "token") this.#token = null;
    if (error === "token" && ++this.#tokenRefusals >= TOKEN_REFUSALS_MAX) {
      this.#setPhase("stopped", { code, text: ERROR_TEXT.token });
    } else if (code in FINAL_CLOSES && error !== "token") {
      this.#setPhase("stopped", { code, text: ERROR_TEXT[error] ?? FINAL_CLOSES[code] });
    } else {
      this.#retry(code, ERROR_TEXT[error]);
    }
  }

  #retry(code, text) {
    if (this.#liveSince && Date.now() - this.#liveSince > STABLE_MS) this.#attempt = 0;
    this.#liveSince = 0;
    const delay = Math.max(this.#floorMs, backoffMs(this.#attempt));
    this.#attempt += 1;
    this.#floorMs = 0;
    this.#setPhase("waiting", { code, text, retryAt: Date.now() + delay });
    this.#after("retry", delay, () => this.#open());
  }

  #setPhase(phase, more = {}) {
    this.#phase = phase;
    this.#handlers.status({ phase, ...more });
  }

  #after(name, delayMs, action) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(action, delayMs);
  }

  #stopTimers() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
  }

  #send(frame) {
    if (this.#socket instanceof WebSocket && this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify(frame));
    }
  }

  // --- frames ---------------------------------------------------------------
  #receive(data) {
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      console.warn("herald: a frame that is not JSON was ignored");
      return;
    }
    this.#pongOwed = false;
    clearTimeout(this.#timers.pong);
    const act = this.#frames[frame.t];
    if (act !== undefined) act(frame); // a tolerant client ignores what it does not know
  }

  #frames = {
    welcome: (frame) => this.#welcome(frame),
    n: (frame) => this.#queue(frame),
    resumed: (frame) => this.#resumed(frame),
    counters: (frame) => this.#count(frame),
    state: (frame) => this.#marked(frame),
    page: (frame) => this.#paged(frame),
    pong: () => {},
    goaway: (frame) => this.#goaway(frame),
    error: (frame) => this.#error(frame),
  };

  #welcome(frame) {
    clearTimeout(this.#timers.connect);
    this.#tokenRefusals = 0;
    this.#recovered = frame.recovered;
    this.#sessionIds.clear();
    const cursor = this.#store.cursor;
    if (frame.recovered === false) this.#startOver(frame.epoch);
    else if (cursor === null || cursor.epoch !== frame.epoch) this.#store.cursor = { epoch: frame.epoch, at: {} };
    if (cursor !== null && cursor.epoch !== frame.epoch) this.#counters.rev = -1;
    this.#setPhase("syncing");
    this.#beat(frame.heartbeat_s * 1000);
    this.#scheduleReauth();
  }

  #startOver(epoch) {
    this.#counters.rev = -1;
    this.#store.clear(epoch, this.#sessionIds);
    this.#handlers.reset();
  }

  #queue(n) {
    this.#batch.push(n);
    if (this.#flushQueued) return;
    this.#flushQueued = true;
    this.#channel.port2.postMessage(null);
  }

  /** Show, keep, move the cursor, keep that, then acknowledge: in this order. */
  #flush() {
    this.#flushQueued = false;
    const batch = this.#batch;
    this.#batch = [];
    if (batch.length === 0 || this.#socket.readyState !== WebSocket.OPEN) return;
    const replayed = this.#phase !== "live";
    const shown = batch.filter((n) => !this.#recalled.has(n.id));
    const items = shown.map((n) => ({ n, known: this.#store.items.has(n.id), replayed }));
    this.#handlers.notifications(items);
    for (const n of batch) {
      this.#sessionIds.add(n.id);
      if (!this.#recalled.has(n.id)) this.#store.put(n);
      // While the log is away a lane may have a hole before n: the cursor waits for `resumed`.
      if (this.#recovered !== "pending") this.#advance({ [n.lane]: n.seq });
    }
    if (!replayed) this.#drift += items.filter((item) => !item.known).length;
    this.#store.save();
    this.#acknowledge(batch.map((n) => n.id));
    this.#handlers.unread(this.unread);
    if (!replayed) this.#after("counters", COUNTERS_LAG_MS, () => this.requestPage(null, 1, "counters"));
  }

  #acknowledge(ids) {
    for (let start = 0; start < ids.length; start += IDS_PER_FRAME_MAX) {
      this.#send({ t: "ack", ids: ids.slice(start, start + IDS_PER_FRAME_MAX) });
    }
    this.#handlers.acked(ids);
  }

  #advance(at) {
    const held = this.#store.cursor.at;
    for (const [lane, seq] of Object.entries(at)) {
      if (!(held[lane] >= seq)) held[lane] = seq;
    }
  }

  #resumed(frame) {
    this.#flush();
    if (this.#recovered === "pending" && !frame.recovered) this.#startOver(this.#store.cursor.epoch);
    this.#recovered = true;
    this.#advance(frame.at);
    this.#count(frame.counters);
    this.#liveSince = Date.now();
    this.#setPhase("live");
    this.#commands.start();
  }

  #count({ unread, rev }) {
    if (rev < this.#counters.rev) return;
    // Within one rev only expiry changes the count: the lowest is the latest.
    if (rev === this.#counters.rev && unread > this.#counters.unread) return;
    clearTimeout(this.#timers.counters);
    this.#counters = { unread, rev };
    this.#drift = 0;
    this.#store.counters = this.#counters;
    this.#store.save();
    this.#handlers.unread(this.unread);
  }

  #marked(frame) {
    this.#flush();
    for (const id of frame.ids) {
      if (frame.to === "recalled") this.#forget(id);
      else if (this.#store.marks.get(id) === frame.to) this.#store.marks.delete(id);
    }
    this.#store.flag(frame.ids, frame.to);
    this.#handlers.state(frame.ids, frame.to);
    this.#commands.stateCame(frame.ids, frame.to);
    this.#count(frame);
  }

  #forget(id) {
    this.#store.marks.delete(id);
    this.#recalled.add(id);
    if (this.#recalled.size > RECALLED_MAX) this.#recalled.delete(this.#recalled.values().next().value);
  }

  #paged(frame) {
    this.#flush();
    const asked = this.#commands.takePage();
    if (asked !== null) this.#dropGone(asked.before, frame);
    for (const { n, read = false, archived = false } of frame.items) {
      const marked = this.#store.marks.get(n.id);
      if (!archived) this.#store.put(n);
      this.#store.flag([n.id], marked ?? (read ? "read" : "unread"));
    }
    this.#store.save();
    this.#count(frame.counters);
    if (asked !== null) this.#commands.pageDone();
    this.#handlers.page(frame, asked?.kind ?? "late");
  }

  /** What we hold from before and the page leaves out among its rows has expired or was recalled. */
  #dropGone(before, frame) {
    const there = new Set(frame.items.map(({ n }) => n.id));
    const oldest = frame.next ?? "";
    const gone = [...this.#store.items.keys()].filter(
      (id) => id >= oldest && (before === null || id < before) && !there.has(id) && !this.#sessionIds.has(id),
    );
    for (const id of gone) this.#store.items.delete(id);
    if (gone.length > 0) this.#handlers.state(gone, "recalled");
  }

  // --- upkeep ---------------------------------------------------------------
  /** Browsers cannot see WebSocket pings: our own ping frame shows a socket that died without a close. */
  #beat(everyMs) {
    this.#after("beat", everyMs, () => {
      this.#ping(PONG_DUE_MS);
      this.#beat(everyMs);
    });
  }

  #ping(dueMs) {
    if (!this.#pongOwed) this.#send({ t: "ping" });
    this.#pongOwed = true;
    this.#after("pong", dueMs, () => this.#lost());
  }

  #scheduleReauth() {
    const { fetchedAt, expiresAt } = this.#token;
    const at = fetchedAt + (expiresAt - fetchedAt) * REAUTH_AT;
    this.#after("reauth", Math.max(1000, at - Date.now()), async () => {
      const socket = this.#socket;
      try {
        this.#token = null;
        const token = await this.#freshToken();
        if (this.#socket !== socket) return;
        this.#send({ t: "reauth", token });
        this.#scheduleReauth();
      } catch (error) {
        // The old token may still last; at its end the server closes 4401 and a reconnect fetches one.
        console.warn("herald: no fresh token yet:", error.message);
      }
    });
  }

  /** The server is leaving: come back after the delay that it chose for this connection. */
  #goaway(frame) {
    this.#floorMs = frame.delay_ms;
    this.#attempt = 0;
    this.#after("goaway", frame.delay_ms, () => {
      this.#drop(1000);
      this.#floorMs = 0;
      this.#open();
    });
  }

  #error(frame) {
    this.#lastError = frame.code;
    if (frame.code === "busy") this.#commands.busy(frame.retry_ms);
    else if (frame.retry_ms !== undefined) this.#floorMs = frame.retry_ms;
    if (frame.code === "bad_frame") console.warn("herald: the server refused a frame of this page");
  }
}
