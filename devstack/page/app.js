// Wires the page: who is signed in, the client, the panel, the form.

import { HeraldClient } from "./client.js";
import { Compose } from "./compose.js";
import { Panel, announce } from "./panel.js";
import { DeviceStore, forgetOldDevices, tabDevice } from "./store.js";
import { icon, make } from "./view.js";

const PAGE_ITEMS = 30;
const SWEEP_ITEMS = 100; // the server's bound of a page
const USER = /^[!-~]{1,128}$/;
const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const device = tabDevice(query.get("device"));

let config = null; // GET /config
let user = "";
let client = null;
let store = null;
let status = { phase: "connecting" };
let firstPageAsked = false;
let olderBefore = null; // where the next older page begins

const panel = new Panel({
  onRead: (ids) => markRead(ids),
  onReadAll: () => sweep(),
  onAction: (n, action) => announce(`${action.label}: done`, false),
  onOlder: () => {
    $("older").disabled = client.requestPage(olderBefore, PAGE_ITEMS, "older");
  },
});
const compose = new Compose("/send", () => ({ user, phase: status.phase }));

function markRead(ids) {
  if (ids.length === 0) return;
  client.mark(ids, "read", -ids.length);
  panel.flag(ids, "read");
}

/** "Mark all read" means also what is not listed yet: page on while the count says that some are left. */
function sweep() {
  if (olderBefore !== null && client.unread > 0) client.requestPage(olderBefore, SWEEP_ITEMS, "sweep");
}

// --- signing in ---------------------------------------------------------------
function signIn(name) {
  const good = USER.test(name);
  $("identity-error").hidden = good;
  $("identity-error").textContent = "A user id is 1 to 128 visible ASCII characters, without spaces.";
  if (!good || name === user) return;
  client?.disconnect();
  user = name;
  store = new DeviceStore(user, device);
  store.onfull = () => announce("Storage is full: this page forgets on reload.", false);
  firstPageAsked = false;
  client = new HeraldClient({ wsUrl: config.ws_url, device, fetchToken, store, handlers });
  panel.use(store);
  panel.setUnread(client.unread);
  compose.setRecipient(user);
  showUser();
  setPower(true);
  client.connect();
}

async function fetchToken() {
  const response = await fetch("/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user, device }),
  }).catch(() => {
    throw new Error("The demo server does not answer.");
  });
  const answer = await response.json();
  if (response.ok) return answer;
  throw Object.assign(new Error(answer.error), { final: response.status < 500 });
}

function showUser() {
  for (const radio of document.querySelectorAll("input[name=who]")) radio.checked = radio.value === user;
  $("other").value = config.users.includes(user) ? "" : user;
  $("other-form").classList.toggle("chosen", !config.users.includes(user));
  const url = new URL(location.href);
  url.searchParams.set("user", user);
  history.replaceState(null, "", url);
  const second = new URL("/", location.href);
  second.searchParams.set("user", user);
  $("second").href = second.href;
}

function drawPeople() {
  for (const name of config.users) {
    const radio = make("input", { type: "radio", name: "who", value: name });
    radio.addEventListener("change", () => signIn(name));
    const face = make("span", { class: "face", "data-face": name.charAt(0) }, name.charAt(0).toUpperCase());
    $("people").append(make("label", { class: "person" }, radio, face, make("span", {}, name)));
    $("users").append(make("option", { value: name }));
  }
}

// --- what the client tells ------------------------------------------------------
const handlers = {
  status: (next) => {
    status = next;
    showStatus();
    if (next.phase === "live" && !firstPageAsked) {
      firstPageAsked = true;
      client.requestPage(null, PAGE_ITEMS, "first");
    }
  },
  notifications: (items) => {
    const fresh = items.some((item) => !item.replayed);
    panel.add(items.filter((item) => !item.known).map(({ n }) => ({ n, read: false })), fresh);
    compose.received(items.map(({ n }) => n.id));
    tell(items.filter((item) => !item.known));
  },
  reset: () => panel.clear(),
  page: (frame, kind) => {
    panel.add(frame.items.filter(({ n }) => store.items.has(n.id)).map(({ n }) => store.items.get(n.id)), false);
    const listed = kind === "first" || kind === "older" || kind === "sweep";
    if (listed) olderBefore = frame.next ?? null;
    panel.loaded(listed ? olderBefore !== null : undefined);
    if (kind !== "sweep") return;
    markRead(frame.items.map(({ n }) => n.id).filter((id) => store.items.get(id)?.read === false));
    sweep();
  },
  state: (ids, to) => panel.flag(ids, to),
  unread: (count) => panel.setUnread(count),
  acked: (ids) => compose.acked(ids),
};

/** New ones: spoken, and the urgent live ones shown as toasts. What waited while away is one sentence. */
function tell(items) {
  if (items.length === 0) return;
  const live = items.filter((item) => !item.replayed);
  if (live.length === 0) {
    announce(items.length === 1 ? `While you were away: ${items[0].n.p.title}` : `${items.length} notifications arrived while you were away`, false);
    return;
  }
  const urgent = live.filter(({ n }) => n.priority === "high");
  for (const { n } of urgent.slice(-3)) panel.toast(n);
  const { n } = (urgent.length > 0 ? urgent : live).at(-1);
  announce(`${live.length > 1 ? `${live.length} new notifications. ` : "New notification: "}${n.p.title}`, urgent.length > 0);
}

// --- the connection as the user sees it ------------------------------------------
function showStatus() {
  const { phase, code, text, retryAt } = status;
  const seconds = Math.max(0, Math.ceil(((retryAt ?? 0) - Date.now()) / 1000));
  const labels = {
    connecting: "Connecting",
    syncing: "Catching up",
    live: "Live",
    waiting: seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting",
    paused: "Offline",
    stopped: code === 4409 ? "Moved" : "Stopped",
  };
  $("status").dataset.phase = phase;
  if ($("status-text").textContent !== labels[phase]) $("status-text").textContent = labels[phase];
  const retry = () => client.connect();
  if (phase === "waiting") {
    const why = text ?? "The connection was lost. New notifications are kept for you.";
    panel.notice({ tone: "wait", text: why, action: ["Retry now", retry] });
  } else if (phase === "paused") {
    const why = "You are offline. Notifications are parked until you return.";
    panel.notice({ tone: "off", text: why, action: ["Go online", () => setPower(true, true)] });
  } else if (phase === "stopped") {
    panel.notice({ tone: "bad", text, action: [code === 4409 ? "Use this tab" : "Try again", retry] });
  } else if (phase === "live") panel.notice(null);
  if (phase === "stopped" || phase === "waiting" || phase === "paused") panel.loaded();
}

function setPower(on, act = false) {
  $("power").setAttribute("aria-pressed", String(!on));
  $("power-text").textContent = on ? "Go offline" : "Go online";
  if (act && on) client.connect();
  else if (act) client.disconnect();
}

// --- theme -----------------------------------------------------------------------
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function themeNow() {
  return document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
}

function showTheme() {
  const other = themeNow() === "dark" ? "light" : "dark";
  $("theme").setAttribute("aria-label", `Switch to the ${other} theme`);
  $("theme").replaceChildren(icon(other === "dark" ? "i-moon" : "i-sun"));
}

function toggleTheme() {
  const next = themeNow() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("herald.theme", next);
  } catch {
    // Storage is blocked: the theme holds until the page goes.
  }
  showTheme();
}

// --- start -----------------------------------------------------------------------
async function start() {
  showTheme();
  $("theme").addEventListener("click", toggleTheme);
  dark.addEventListener("change", showTheme);
  $("device").textContent = device;
  forgetOldDevices();
  try {
    config = await (await fetch("/config")).json();
  } catch {
    status = { phase: "stopped" };
    $("status").dataset.phase = "stopped";
    $("status-text").textContent = "Stopped";
    panel.notice({ tone: "bad", text: "The demo server does not answer. Is `make run` still running?", action: ["Reload", () => location.reload()] });
    return;
  }
  drawPeople();
  $("other-form").addEventListener("submit", (event) => {
    event.preventDefault();
    signIn($("other").value.trim());
  });
  $("power").addEventListener("click", () => setPower(status.phase === "paused", true));
  window.addEventListener("online", () => client?.nudge());
  window.addEventListener("offline", () => client?.nudge());
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") client?.nudge();
  });
  setInterval(() => status.phase === "waiting" && showStatus(), 500);
  const wanted = query.get("user");
  signIn(wanted !== null && USER.test(wanted) ? wanted : config.users[0]);
}

start();
