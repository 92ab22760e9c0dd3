// The form that sends one notification as an upstream service would, and the trace of its way.

import { icon, make } from "./view.js";

const TRACES_MAX = 5;
const PARKED_AFTER_MS = 4_000;
const $ = (id) => document.getElementById(id);

const PRESETS = {
  alert: {
    type: "system_alert",
    priority: "high",
    title: "Payment failed",
    body: "Your card ending 4242 was declined. Update it before Friday to keep your plan.",
    action: "Update card",
  },
  service: {
    type: "service",
    priority: "medium",
    title: "Your parcel is two stops away",
    body: "Dana will be with you between 14:10 and 14:30.",
    action: "Track parcel",
  },
  promo: {
    type: "promotional",
    priority: "low",
    title: "A quiet weekend offer",
    body: "Twenty percent off everything you saved for later, until Sunday night.",
    action: "",
  },
};

export class Compose {
  #form = $("send");
  #traces = new Map(); // id -> trace
  #early = new Map(); // id -> ms: received before the answer to our send was
  #me = () => ({ user: "", phase: "" });
  #endpoint;

  /** endpoint: where to post; me() -> {user, phase}. */
  constructor(endpoint, me) {
    this.#endpoint = endpoint;
    this.#me = me;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    this.#form.addEventListener("input", (event) => this.#clearError(event.target.name));
    for (const button of document.querySelectorAll("[data-preset]")) {
      button.addEventListener("click", () => this.#fill(PRESETS[button.dataset.preset]));
    }
    this.#fill(PRESETS.service);
  }

  setRecipient(user) {
    this.#form.elements.user.value = user;
    this.#clearError("user");
  }

  #fill(preset) {
    for (const [name, value] of Object.entries(preset)) this.#form.elements[name].value = value;
    this.#clearErrors();
  }

  /** Only what was filled in: an empty optional field is left out, as a service would. */
  #request() {
    const fields = this.#form.elements;
    const request = {
      user: fields.user.value.trim(),
      type: fields.type.value,
      priority: fields.priority.value,
      title: fields.title.value.trim(),
      body: fields.body.value.trim(),
    };
    if (fields.image.value.trim() !== "") request.image = fields.image.value.trim();
    if (fields.action.value.trim() !== "") request.actions = [{ id: "open", label: fields.action.value.trim() }];
    if (fields.ttl.value !== "") request.ttl = Number(fields.ttl.value);
    return request;
  }

  async #send() {
    this.#clearErrors();
    const request = this.#request();
    for (const [name, label] of [["user", "a user"], ["title", "a title"], ["body", "a message"]]) {
      if (request[name] === "") return this.#error(name, `Enter ${label}.`);
    }
    const startedAt = performance.now();
    $("send-button").disabled = true;
    try {
      const response = await fetch(this.#endpoint, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(request),
      });
      const answer = await response.json();
      if (response.status === 202) this.#accepted(answer.id, request, startedAt);
      else this.#error(answer.field, answer.rule ? `This ${answer.rule}.` : `${answer.error}.`);
    } catch {
      this.#error(undefined, "The demo server does not answer. Is `make run` still running?");
    } finally {
      $("send-button").disabled = false;
    }
    return undefined;
  }

  // --- errors ---------------------------------------------------------------
  #error(field, text) {
    const name = (field ?? "").split(/[.[]/)[0];
    const place = $(`e-${name}`) ?? $("send-error");
    place.textContent = text.charAt(0).toUpperCase() + text.slice(1);
    place.hidden = false;
    const input = $(name === "actions" ? "f-action" : `f-${name}`);
    input?.setAttribute("aria-invalid", "true");
    input?.focus();
  }

  #clearError(name) {
    $(`e-${name === "action" ? "actions" : name}`)?.setAttribute("hidden", "");
    $(`f-${name}`)?.removeAttribute("aria-invalid");
    $("send-error").hidden = true;
  }

  #clearErrors() {
    for (const name of ["user", "type", "priority", "title", "body", "image", "action", "ttl"]) this.#clearError(name);
  }

  // --- the trace ------------------------------------------------------------
  #accepted(id, request, startedAt) {
    const steps = ["Accepted", "Received", "Acked"].map((label) => make("li", { class: "step" }, label));
    const code = make("code", { title: id }, `…${id.slice(-12)}`);
    const head = make("p", { class: "trace-head" }, make("strong", {}, request.title), code);
    const hint = make("p", { class: "trace-hint", hidden: true });
    const row = make("li", { class: "trace-row", "data-id": id }, head, make("ol", { class: "steps" }, ...steps), hint);
    const trace = { startedAt, steps, hint, request };
    this.#traces.set(id, trace);
    $("trace-empty").hidden = true;
    $("trace").prepend(row);
    while ($("trace").children.length > TRACES_MAX) {
      this.#traces.delete($("trace").lastElementChild.dataset.id);
      $("trace").lastElementChild.remove();
    }
    this.#step(trace, 0, performance.now());
    const early = this.#early.get(id);
    this.#early.clear();
    if (early !== undefined) {
      this.#step(trace, 1, early);
      this.#step(trace, 2, performance.now());
    } else this.#expect(trace);
  }

  #step(trace, index, at) {
    const element = trace.steps[index];
    if (element.classList.contains("done")) return;
    const label = ["Accepted", "Received", "Acked"][index];
    const ms = Math.max(0, Math.round(at - trace.startedAt));
    const shown = ms < 10_000 ? `${ms} ms` : `${Math.round(ms / 1000)} s`;
    element.classList.add("done");
    element.replaceChildren(icon("i-check"), label, make("span", { class: "ms" }, shown));
    if (index > 0) trace.hint.hidden = true;
  }

  /** Say why nothing arrives here, when there is a reason. */
  #expect(trace) {
    const tell = (text) => {
      trace.hint.textContent = text;
      trace.hint.hidden = false;
    };
    const { user } = trace.request;
    const told = () => trace.steps[1].classList.contains("done");
    if (user !== this.#me().user) tell(`Waits for ${user}, or arrived where ${user} is signed in. You are ${this.#me().user}.`);
    else if (this.#me().phase === "paused") tell("Parked while you are offline. Go online and it arrives.");
    else {
      setTimeout(() => {
        if (!told()) tell("Not here yet. It is safe in Kafka and arrives when the connection allows.");
      }, PARKED_AFTER_MS);
    }
  }

  received(ids) {
    const now = performance.now();
    for (const id of ids) {
      const trace = this.#traces.get(id);
      if (trace !== undefined) this.#step(trace, 1, now);
      else if ($("send-button").disabled) this.#early.set(id, now);
    }
  }

  acked(ids) {
    const now = performance.now();
    for (const id of ids) {
      const trace = this.#traces.get(id);
      if (trace !== undefined) this.#step(trace, 2, now);
    }
  }
}
