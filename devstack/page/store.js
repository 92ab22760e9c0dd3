// What one device of one user keeps over a reload: cursor, newest items, counters, marks not yet confirmed.
// All of it is one localStorage entry, so that a cursor is never newer than the items beside it.

const PREFIX = "herald.device.";
const ITEMS_MAX = 60; // kept
const ITEMS_HELD_MAX = 500; // in memory
const DEVICES_MAX = 6; // older ones are forgotten, as their tabs are long closed

export class DeviceStore {
  #key;
  #warned = false;
  /** {epoch, at: {lane: seq}} or null */
  cursor = null;
  /** id -> {n, read} */
  items = new Map();
  counters = null;
  /** id -> state that the server has not confirmed */
  marks = new Map();
  onfull = () => {};

  constructor(user, device) {
    this.#key = `${PREFIX}${user}.${device}`;
    const kept = read(this.#key);
    if (kept === null) return;
    this.cursor = kept.cursor;
    this.counters = kept.counters;
    this.items = new Map(kept.items.map((item) => [item.n.id, item]));
    this.marks = new Map(kept.marks);
  }

  put(n) {
    const held = this.items.get(n.id);
    if (held === undefined) this.items.set(n.id, { n, read: false });
    else held.n = n;
  }

  flag(ids, to) {
    for (const id of ids) {
      const item = this.items.get(id);
      if (item === undefined) continue;
      if (to === "read") item.read = true;
      else if (to === "unread") item.read = false;
      else if (to === "archived" || to === "recalled") this.items.delete(id);
    }
  }

  /** Start over in log `epoch`, but for what this session already brought. */
  clear(epoch, keep) {
    this.cursor = { epoch, at: {} };
    this.counters = null;
    for (const id of this.items.keys()) {
      if (!keep.has(id)) this.items.delete(id);
    }
  }

  save() {
    const newest = [...this.items.values()].sort((a, b) => (a.n.id < b.n.id ? 1 : -1));
    for (const item of newest.slice(ITEMS_HELD_MAX)) this.items.delete(item.n.id);
    const kept = {
      at: Date.now(),
      cursor: this.cursor,
      counters: this.counters,
      items: newest.slice(0, ITEMS_MAX),
      marks: [...this.marks],
    };
    try {
      localStorage.setItem(this.#key, JSON.stringify(kept));
    } catch {
      // Full or blocked: the old entry stands, its cursor with it, so a reload fetches the rest again.
      if (!this.#warned) this.onfull();
      this.#warned = true;
    }
  }
}

function read(key) {
  try {
    const kept = JSON.parse(localStorage.getItem(key));
    return kept !== null && Array.isArray(kept.items) && Array.isArray(kept.marks) ? kept : null;
  } catch {
    return null; // blocked, or not ours: a device without a cursor gets everything live
  }
}

/** Forget the devices that were not used for longest. */
export function forgetOldDevices() {
  try {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    const byAge = keys.map((key) => [read(key)?.at ?? 0, key]).sort((a, b) => b[0] - a[0]);
    for (const [, key] of byAge.slice(DEVICES_MAX)) localStorage.removeItem(key);
  } catch {
    // Storage is blocked: nothing to forget.
  }
}

/** The id of this tab as a device: survives a reload, differs between tabs. */
export function tabDevice(wanted) {
  if (wanted !== null && /^[A-Za-z0-9_-]{1,64}$/.test(wanted)) return wanted;
  const fresh = `web-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  try {
    const kept = sessionStorage.getItem("herald.device") ?? fresh;
    sessionStorage.setItem("herald.device", kept);
    return kept;
  } catch {
    return fresh;
  }
}
