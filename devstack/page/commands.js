// What the page asks of the server: inbox rows, and the marks that the store holds until they are confirmed.
//
// One page or one frame of marks is under way at a time: the server's `busy` names none, and it takes few of a
// connection. What was asked before a connection was lost is asked again on the next one.

const ANSWER_DUE_MS = 5_000; // without an answer it is asked again
const BUSY_RETRY_MS = 1_000; // where `busy` names no time
const BUSY_RETRY_MS_MAX = 30_000;
const MARK_TICK_MS = 50; // marks of one moment share a frame
export const IDS_PER_FRAME_MAX = 256;

export class Commands {
  #store;
  #send;
  #open = false;
  #page = null; // {before, limit, kind}: wanted
  #asked = null; // {page} or {ids, to}: under way
  #markedLast = false; // turn and turn about
  #busyInARow = 0;
  #timer;
  #markTimer;

  /** store: see store.js; send(frame). */
  constructor(store, send) {
    this.#store = store;
    this.#send = send;
  }

  /** There is a session, and what it owed is here. */
  start() {
    this.#open = true;
    this.#ask();
  }

  stop() {
    this.#open = false;
    this.#markedLast = false;
    this.#asked = null;
    this.#busyInARow = 0;
    clearTimeout(this.#timer);
  }

  /** False: a page is wanted already. */
  wantPage(before, limit, kind) {
    if (this.#page !== null) return false;
    this.#page = { before, limit, kind };
    this.#ask();
    return true;
  }

  /** The store has new marks. */
  marked() {
    clearTimeout(this.#markTimer);
    this.#markTimer = setTimeout(() => this.#ask(), MARK_TICK_MS);
  }

  /** A page came. What was asked for, or null: that answer comes late. */
  takePage() {
    const page = this.#asked?.page;
    if (page === undefined) return null;
    this.#page = null;
    return page;
  }

  /** A page is shown: on with the next. */
  pageDone() {
    this.#answered();
  }

  /** Some device of the user marked these ids; those of ours that there are come in one frame. */
  stateCame(ids, to) {
    if (this.#asked?.to !== to || !ids.every((id) => this.#asked.ids.includes(id))) return;
    if (ids.length === 0) for (const id of this.#asked.ids) this.#store.marks.delete(id); // the server knows none of them
    this.#answered();
  }

  /** What is under way was not done: again, not before `retryMs`, and later each time. */
  busy(retryMs = BUSY_RETRY_MS) {
    if (this.#asked === null) return;
    const delay = Math.min(BUSY_RETRY_MS_MAX, retryMs * 2 ** this.#busyInARow);
    this.#busyInARow = Math.min(this.#busyInARow + 1, 16);
    this.#againIn(delay * (1 + Math.random() / 2));
  }

  #ask() {
    if (this.#asked !== null || !this.#open) return;
    if (this.#page !== null && (this.#markedLast || this.#store.marks.size === 0)) {
      const { before, limit } = this.#page;
      this.#asked = { page: this.#page };
      this.#send(before === null ? { t: "page", limit } : { t: "page", before, limit });
    } else if (this.#store.marks.size > 0) {
      const marks = [...this.#store.marks];
      const to = marks[0][1];
      const ids = marks.filter((mark) => mark[1] === to).map(([id]) => id).slice(0, IDS_PER_FRAME_MAX);
      this.#asked = { ids, to };
      this.#send({ t: "state", ids, to });
    } else return;
    this.#markedLast = this.#asked.page === undefined;
    this.#againIn(ANSWER_DUE_MS);
  }

  #answered() {
    clearTimeout(this.#timer);
    this.#asked = null;
    this.#busyInARow = 0;
    this.#ask();
  }

  /** Unless an answer comes first. Marks go behind the others, or those that nobody answers would hold them up. */
  #againIn(delayMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const marks = this.#store.marks;
      for (const id of this.#asked.ids ?? []) {
        const to = marks.get(id);
        if (marks.delete(id)) marks.set(id, to);
      }
      this.#asked = null;
      this.#ask();
    }, delayMs);
  }
}
