// The bell and the panel: what it lists, its states (loading, empty, trouble), keyboard and focus.

import { card, make, refreshTimes, setRead, toast } from "./view.js";

const ROWS_MAX = 400; // beyond it the oldest leave the page
const TOASTS_MAX = 3;
const TOAST_MS = 9_000;
const TIMES_EVERY_MS = 15_000;
const WIDE = window.matchMedia("(min-width: 1000px)");
const $ = (id) => document.getElementById(id);

export class Panel {
  #store = null;
  #rows = new Map(); // id -> li
  #filter = "all";
  #loading = true;
  #unread = 0;
  #handlers;

  /** handlers: onRead(ids), onReadAll() after what is listed, onAction(n, action), onOlder(). */
  constructor(handlers) {
    this.#handlers = handlers;
    $("bell").addEventListener("click", () => this.toggle($("panel").hidden));
    $("panel-close").addEventListener("click", () => this.toggle(false));
    $("scrim").addEventListener("click", () => this.toggle(false));
    $("read-all").addEventListener("click", () => this.#readAll());
    $("older").addEventListener("click", () => handlers.onOlder());
    for (const button of document.querySelectorAll("[data-filter]")) {
      button.addEventListener("click", () => this.#setFilter(button.dataset.filter));
    }
    document.addEventListener("keydown", (event) => this.#key(event));
    WIDE.addEventListener("change", () => this.toggle(WIDE.matches, false));
    setInterval(() => refreshTimes($("list")), TIMES_EVERY_MS);
    this.toggle(WIDE.matches, false);
  }

  /** Show another user's or device's list. */
  use(store) {
    this.#store = store;
    this.#loading = true;
    this.clear();
    $("toasts").replaceChildren();
    this.add([...store.items.values()], false);
  }

  clear() {
    this.#rows.clear();
    $("list").replaceChildren();
    $("older").hidden = true;
    this.#settle();
  }

  /** The first page is here. */
  loaded(more) {
    this.#loading = false;
    if (more !== undefined) $("older").hidden = !more || this.#rows.size >= ROWS_MAX;
    $("older").disabled = false;
    this.#settle();
  }

  /** Insert or refresh rows; newest (by id, a UUIDv7) first. */
  add(items, fresh) {
    for (const item of items) {
      const held = this.#rows.get(item.n.id);
      if (held !== undefined) {
        setRead(held, item.read);
        continue;
      }
      const row = card(item, { onOpen: (n) => this.#read([n.id]), onAction: (n, action) => this.#act(n, action) });
      if (fresh && !$("panel").hidden) row.classList.add("fresh");
      this.#rows.set(item.n.id, row);
      this.#insert(item.n.id, row);
    }
    this.#trim();
    this.#settle();
  }

  #insert(id, row) {
    for (const other of $("list").children) {
      if (other.dataset.id < id) {
        other.before(row);
        return;
      }
    }
    $("list").append(row);
  }

  #trim() {
    while (this.#rows.size > ROWS_MAX) {
      const last = $("list").lastElementChild;
      this.#rows.delete(last.dataset.id);
      last.remove();
    }
  }

  flag(ids, to) {
    for (const id of ids) {
      const row = this.#rows.get(id);
      if (row === undefined) continue;
      if (to === "read" || to === "unread") setRead(row, to === "read");
      if (to === "archived" || to === "recalled") {
        this.#rows.delete(id);
        row.remove();
      }
    }
    this.#settle();
  }

  setUnread(count) {
    const grew = count > this.#unread;
    this.#unread = count;
    const shown = count > 99 ? "99+" : String(count);
    for (const id of ["badge", "filter-count"]) {
      $(id).hidden = count === 0;
      $(id).textContent = shown;
    }
    $("bell").setAttribute("aria-label", `Notifications, ${count === 0 ? "none" : count} unread`);
    document.title = count === 0 ? "Herald demo" : `(${shown}) Herald demo`;
    if (grew) $("bell").firstElementChild.animate(RING, { duration: 700, easing: "ease-in-out" });
    this.#settle();
  }

  /** A line above the list: {text, tone, action?: [label, handler]} or null. */
  notice(notice) {
    $("notice").hidden = notice === null;
    if (notice === null) return;
    $("notice").dataset.tone = notice.tone;
    $("notice-text").textContent = notice.text;
    $("notice-action").hidden = notice.action === undefined;
    $("notice-action").textContent = notice.action?.[0] ?? "";
    $("notice-action").onclick = notice.action?.[1] ?? null;
  }

  toast(n) {
    if ($("toasts").children.length >= TOASTS_MAX) $("toasts").firstElementChild.remove();
    const close = () => element.remove();
    const view = () => {
      close();
      this.show(n.id);
    };
    const element = toast(n, { onView: view, onClose: close });
    let timer = setTimeout(close, TOAST_MS);
    for (const stop of ["pointerenter", "focusin"]) element.addEventListener(stop, () => clearTimeout(timer));
    for (const go of ["pointerleave", "focusout"]) {
      element.addEventListener(go, () => {
        clearTimeout(timer);
        timer = setTimeout(close, TOAST_MS / 2);
      });
    }
    $("toasts").append(element);
  }

  /** Open the panel at one notification and read it. */
  show(id) {
    this.toggle(true, false);
    this.#setFilter("all");
    const row = this.#rows.get(id);
    row?.scrollIntoView({ block: "nearest" });
    row?.querySelector(".card-title").focus();
    this.#read([id]);
  }

  toggle(open, moveFocus = true) {
    const had = $("panel").contains(document.activeElement);
    $("panel").hidden = !open;
    document.body.classList.toggle("panel-open", open);
    $("bell").setAttribute("aria-expanded", String(open));
    const over = open && !WIDE.matches;
    $("scrim").hidden = !over;
    $("main").inert = over;
    if (open) refreshTimes($("list"));
    if (open && moveFocus) $("panel-title").focus();
    else if (!open && (moveFocus || had)) $("bell").focus();
  }

  #key(event) {
    if (event.key === "Escape") {
      const last = $("toasts").lastElementChild;
      if (last !== null && last.contains(document.activeElement)) last.remove();
      else if (!$("panel").hidden) this.toggle(false);
      else last?.remove();
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined || !$("panel").contains(event.target) || event.target.closest(".filters")) return;
    const titles = [...$("list").querySelectorAll(".card-title")].filter((title) => title.offsetParent !== null);
    const row = event.target.closest(".item")?.querySelector(".card-title");
    const next = titles[Math.min(titles.length - 1, Math.max(0, titles.indexOf(row) + step))];
    if (next === undefined) return;
    event.preventDefault();
    next.focus();
  }

  #setFilter(filter) {
    this.#filter = filter;
    for (const button of document.querySelectorAll("[data-filter]")) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
    }
    $("list").classList.toggle("only-unread", filter === "unread");
    this.#settle();
  }

  #act(n, action) {
    this.#read([n.id]);
    this.#handlers.onAction(n, action);
  }

  #read(ids) {
    const unread = ids.filter((id) => this.#store.items.get(id)?.read === false);
    if (unread.length > 0) this.#handlers.onRead(unread);
  }

  #readAll() {
    this.#read([...this.#store.items.keys()]);
    this.#handlers.onReadAll();
  }

  /** Which of list, skeleton and empty state is right now. */
  #settle() {
    const unreadRows = $("list").querySelectorAll(".item.unread").length;
    const shown = this.#filter === "unread" ? unreadRows : this.#rows.size;
    $("skeleton").hidden = !(this.#loading && shown === 0);
    $("empty").hidden = this.#loading || shown > 0;
    const caughtUp = this.#filter === "unread" && this.#rows.size > 0;
    $("empty-title").textContent = caughtUp ? "You are all caught up" : "Nothing here yet";
    $("empty-text").textContent = caughtUp
      ? "Everything has been read."
      : "Send yourself a notification: it arrives here within the blink of an eye.";
    $("read-all").disabled = unreadRows === 0;
  }
}

const RING = [0, 14, -11, 7, -4, 0].map((degrees) => ({ transform: `rotate(${degrees}deg)` }));

/** Text for screen readers; `now` interrupts. */
export function announce(text, now) {
  $(now ? "announce-now" : "announce").replaceChildren(make("span", {}, text));
}
