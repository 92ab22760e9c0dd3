// Elements of the page. Whatever comes from a notification becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const TYPES = {
  system_alert: { label: "System alert", icon: "i-alert" },
  service: { label: "Service", icon: "i-service" },
  promotional: { label: "Promotional", icon: "i-promo" },
};
const PRIORITIES = { high: "High", medium: "Medium", low: "Low" };
const STEPS = [
  [60, "second", 1],
  [3600, "minute", 60],
  [86_400, "hour", 3600],
  [604_800, "day", 86_400],
];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });
const absolute = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en", { dateStyle: "medium" });

/** make("p", {class: "x", hidden: true}, "text", child): attributes, then text and elements. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

/** "now", "4 min. ago", "yesterday"; beyond a week the date. */
export function ago(ms, now = Date.now()) {
  const seconds = Math.round((now - ms) / 1000);
  if (seconds < 10) return "now";
  for (const [below, unit, size] of STEPS) {
    if (seconds < below) return relative.format(-Math.floor(seconds / size), unit);
  }
  return day.format(ms);
}

/** An https URL as the browser writes it, or null for any other scheme or text. */
export function httpsUrl(text) {
  try {
    const url = new URL(text);
    return url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/** The picture of a notification, lazily loaded; one that fails says so in its place. */
function picture(url) {
  const frame = make("div", { class: "picture" });
  const safe = httpsUrl(url);
  const failed = () => {
    frame.classList.add("failed");
    frame.replaceChildren(icon("i-image"), make("span", {}, "Image unavailable"));
  };
  if (safe === null) {
    failed();
    return frame;
  }
  const image = make("img", { alt: "", loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  image.addEventListener("load", () => frame.classList.add("loaded"));
  image.addEventListener("error", failed);
  image.src = safe;
  frame.append(image);
  return frame;
}

function actionButton(action, onAction) {
  const url = action.url === undefined ? null : httpsUrl(action.url);
  const attributes = { class: "action", "data-action": action.id };
  if (url === null) {
    const button = make("button", { ...attributes, type: "button" }, action.label);
    button.addEventListener("click", () => onAction(action));
    return button;
  }
  const rel = "noopener noreferrer";
  const link = make("a", { ...attributes, href: url, target: "_blank", rel }, action.label, icon("i-out"));
  link.addEventListener("click", () => onAction(action));
  return link;
}

/** A row of the list. handlers: onOpen(n), onAction(n, action). */
export function card(item, handlers) {
  const { n } = item;
  const { title, body, image, actions = [] } = n.p;
  const type = TYPES[n.type] ?? { label: n.type, icon: "i-bell" };
  const open = make("button", { class: "card-title", type: "button" }, title);
  open.addEventListener("click", () => handlers.onOpen(n));
  const time = make("time", { datetime: new Date(n.sent_at).toISOString(), title: absolute.format(n.sent_at) });
  time.dataset.ms = n.sent_at;
  time.textContent = ago(n.sent_at);
  const meta = make(
    "p",
    { class: "meta" },
    make("span", { class: "chip", "data-priority": n.priority }, PRIORITIES[n.priority] ?? n.priority),
    make("span", {}, type.label),
    time,
  );
  const content = make("div", { class: "content" }, make("h3", {}, open), make("p", { class: "text" }, body));
  if (image !== undefined) content.append(picture(image));
  if (actions.length > 0) {
    content.append(make("div", { class: "actions" }, ...actions.map((a) => actionButton(a, (x) => handlers.onAction(n, x)))));
  }
  content.append(meta);
  const tile = make("span", { class: "tile", "data-type": n.type }, icon(type.icon));
  const row = make("li", { class: "item", "data-id": n.id, "data-priority": n.priority }, tile, content);
  setRead(row, item.read);
  return row;
}

export function setRead(row, read) {
  row.classList.toggle("unread", !read);
  const mark = row.querySelector(".unread-mark");
  if (read) mark?.remove();
  else if (mark === null) row.append(make("span", { class: "unread-mark" }, make("span", { class: "sr" }, "Unread")));
}

/** A toast for what cannot wait. handlers: onView(), onClose(). */
export function toast(n, handlers) {
  const type = TYPES[n.type] ?? { icon: "i-bell" };
  const view = make("button", { class: "action", type: "button" }, "View");
  const close = make("button", { class: "ghost", type: "button", "aria-label": "Dismiss" }, icon("i-x"));
  view.addEventListener("click", handlers.onView);
  close.addEventListener("click", handlers.onClose);
  return make(
    "div",
    { class: "toast", "data-id": n.id },
    make("span", { class: "tile", "data-type": n.type }, icon(type.icon)),
    make("div", { class: "toast-text" }, make("strong", {}, n.p.title), make("p", {}, n.p.body)),
    make("div", { class: "toast-end" }, close, view),
  );
}

export function refreshTimes(root) {
  for (const time of root.querySelectorAll("time[data-ms]")) time.textContent = ago(Number(time.dataset.ms));
}
