// Keeps a page live without reloading. Every form also works without this script.

const csrf = document.querySelector("meta[name=csrf-token]")?.content;
const main = document.getElementById("main");
const FAST = 1000;
const SLOW = 1500; // what others do shows within 2 s
const LONGEST = 8000;

// ---- Live regions -------------------------------------------------------------------------------

let tag = null;
let timer = 0;
let failures = 0;
let polling = null;
let again = false;

/** Fetch the page's fragment and swap what changed; calls at the same time share one request. */
function refresh() {
  if (!main?.dataset.live) return Promise.resolve();
  if (polling) {
    again = true;
    return polling;
  }
  clearTimeout(timer);
  polling = poll().finally(() => {
    polling = null;
    if (again) {
      again = false;
      refresh();
    } else if (!document.hidden) {
      const pause = main.dataset.busy === "yes" ? FAST : SLOW;
      timer = setTimeout(refresh, Math.min(pause * 2 ** failures, LONGEST));
    }
  });
  return polling;
}

async function poll() {
  try {
    const response = await fetch(main.dataset.live, {
      cache: "no-store",
      headers: tag ? { "If-None-Match": tag } : {},
      signal: AbortSignal.timeout(15000),
    });
    if (response.status === 401) {
      // What was typed stays to be copied here, too.
      delete main.dataset.live;
      const logIn = document.getElementById("logged-out");
      logIn.querySelector("a").href = `/log-in?${new URLSearchParams({ then: location.pathname + location.search })}`;
      logIn.hidden = false;
    } else if (response.status === 404) {
      // What was typed stays to be copied.
      delete main.dataset.live;
      document.getElementById("gone").hidden = false;
    } else if (response.status === 200) {
      const complete = patch(parsed(await response.text()).querySelector("main"));
      // What was left alone because somebody works in it is looked at again.
      tag = complete ? response.headers.get("ETag") : null;
    } else if (response.status !== 304) {
      throw new Error(`status ${response.status}`);
    }
    if (failures || lostPictures.size) reloadPictures();
    failures = 0;
  } catch {
    failures = Math.min(failures + 1, 3);
  }
  document.getElementById("offline").hidden = failures < 2;
}

function parsed(html) {
  return new DOMParser().parseFromString(html, "text/html");
}

function patch(fresh) {
  main.dataset.busy = fresh.dataset.busy;
  let complete = true;
  for (const region of fresh.querySelectorAll("[data-region]")) {
    const current = document.querySelector(`[data-region="${region.dataset.region}"]`);
    if (!current || current.dataset.version === region.dataset.version) continue;
    const done = "list" in region.dataset ? patchList(current, region) : swap(current, region);
    if (!done) complete = false;
    else if ("list" in region.dataset) current.dataset.version = region.dataset.version;
  }
  showTimes();
  return complete;
}

/** Make the children of a list equal to fresh ones, by key, touching only what differs. */
function patchList(list, fresh) {
  const wanted = new Set([...fresh.children].map((item) => item.dataset.key));
  const existing = new Map();
  let complete = true;
  let focused = -1;
  for (const [index, item] of [...list.children].entries()) {
    existing.set(item.dataset.key, item);
    if (wanted.has(item.dataset.key)) continue;
    if (isBusy(item)) {
      complete = false;
      continue;
    }
    if (item.contains(document.activeElement)) focused = index;
    item.remove();
  }
  let place = list.firstElementChild;
  for (const item of [...fresh.children]) {
    while (place && !wanted.has(place.dataset.key)) place = place.nextElementSibling;
    const old = existing.get(item.dataset.key);
    if (!old) {
      list.insertBefore(item, place);
      continue;
    }
    if (old !== place) list.insertBefore(old, place);
    place = old.nextElementSibling;
    if (old.dataset.version !== item.dataset.version && !swap(old, item)) complete = false;
  }
  if (focused >= 0) focusIn(list.children[focused] ?? list.lastElementChild ?? list.nextElementSibling);
  return complete;
}

/** Focus the first thing in an element that can be used, so that the keyboard stays where it was. */
function focusIn(element) {
  const first = element?.querySelector("[data-first]")
    ?? element?.querySelector("a[href]:not([tabindex]), button, input:not([type=hidden])");
  (first ?? main).focus({ preventScroll: true });
}

/** Replace an element unless somebody works in it; focus and loaded pictures stay. */
function swap(old, fresh) {
  if (isBusy(old)) return false;
  const focused = old.contains(document.activeElement) && document.activeElement.id;
  const open = [...old.querySelectorAll("details")].map((details) => details.open);
  fresh.querySelectorAll("details").forEach((details, i) => { details.open = open[i] ?? false; });
  for (const picture of fresh.querySelectorAll("img")) {
    const same = [...old.querySelectorAll("img")].find((one) => one.src === picture.src);
    if (!same) continue;
    same.className = picture.className;
    same.alt = picture.alt;
    picture.replaceWith(same);
  }
  old.replaceWith(fresh);
  if (focused !== false) {
    const same = document.getElementById(focused);
    if (same) same.focus({ preventScroll: true });
    else focusIn(fresh);
  }
  return true;
}

function isBusy(element) {
  if (element.querySelector(":popover-open, form[data-sending]")) return true;
  if (element.querySelector("select:focus")) return true; // it may be open
  return [...element.querySelectorAll("input:not([type=hidden])")].some((input) =>
    input.type === "file" ? input.files.length > 0 : input.value !== input.defaultValue,
  );
}

const lostPictures = new Set();
document.addEventListener("error", (event) => {
  if (event.target instanceof HTMLImageElement) lostPictures.add(event.target);
}, true);

function reloadPictures() {
  for (const picture of lostPictures) {
    lostPictures.delete(picture);
    if (picture.isConnected) picture.src = picture.getAttribute("src");
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
document.addEventListener("changed", refresh); // by another script of the page
addEventListener("online", refresh);
addEventListener("pageshow", (event) => event.persisted && refresh());

// ---- Times --------------------------------------------------------------------------------------

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

function showTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    const text = inWords(date);
    if (time.textContent !== text) time.textContent = text;
    time.title = exact.format(date);
  }
}

function inWords(date) {
  const seconds = (Date.now() - date) / 1000;
  if (seconds < 45) return "just now";
  if (seconds < 3600) return relative.format(-Math.max(1, Math.round(seconds / 60)), "minute");
  if (seconds < 86400) return relative.format(-Math.round(seconds / 3600), "hour");
  return exact.format(date);
}

// ---- Forms --------------------------------------------------------------------------------------

/** Send a form; the button that did so may have a value of its own. */
async function send(form, button) {
  const message = form.querySelector("[data-message]");
  const insist = form.querySelector("button[name=insist]");
  const choices = form.querySelector("[data-choices]");
  if (message) message.textContent = "";
  const data = new FormData(form, button);
  const body = form.enctype === "multipart/form-data" ? data : new URLSearchParams(data);
  form.dataset.sending = "";
  if (body instanceof FormData) addEventListener("beforeunload", ask);
  try {
    const response = await fetch(form.action, { method: "POST", body, headers: { Accept: "application/json", ...(csrf && { "X-CSRF-Token": csrf }) } });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) {
      if (insist) {
        insist.hidden = !answer.can_insist;
        insist.value = answer.insist ?? "true";
      }
      if (choices) offer(choices, answer.choices ?? "");
      return tell(message, answer.message ?? `The server answered ${response.status}.`);
    }
    const then = form.dataset.then ?? (form.elements.find && answer.then);
    if (then) return location.assign(then);
    if (answer.said) tell(null, answer.said);
    form.closest("[popover]")?.hidePopover();
    if (insist) {
      if (insist === document.activeElement) focusIn(form);
      insist.hidden = true;
    }
    if (choices) offer(choices, "");
    // What was typed is saved: the form no longer holds back the fresh version.
    form.reset();
    for (const input of form.querySelectorAll("input[list]")) input.value = input.defaultValue;
  } catch {
    tell(message, "The connection is lost. Try again in a moment.");
  } finally {
    delete form.dataset.sending;
    removeEventListener("beforeunload", ask);
    // Sent as soon as it is chosen: the same file may be chosen again, unless it is sent once more.
    if ("upload" in form.dataset && (!insist || insist.hidden)) form.reset();
  }
  return refresh();
}

/** Show what one may choose instead of what was refused; who used the keyboard there goes on. */
function offer(choices, html) {
  const had = choices.contains(document.activeElement);
  choices.replaceChildren(...parsed(html).body.childNodes);
  if (had) focusIn(choices.closest("form"));
}

function ask(event) {
  event.preventDefault();
}

let toastTimer = 0;
function tell(message, text) {
  if (message) {
    message.textContent = text;
    return;
  }
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toast.hidden = true; }, 8000);
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-action]")) return;
  event.preventDefault();
  if (!("sending" in event.target.dataset)) send(event.target, event.submitter);
});

document.addEventListener("change", (event) => {
  const field = event.target;
  if (!field.matches("[data-submit]")) return;
  // Of a field with suggestions, a part of a name is none yet.
  const names = field.list && Array.from(field.list.options, (option) => option.value);
  if (!names || !field.value || names.includes(field.value)) field.form.requestSubmit();
});

// What was offered for another name is none for this one.
document.addEventListener("input", ({ target }) => {
  const form = target.name === "person" && target.form;
  const choices = form && form.querySelector("[data-choices]");
  if (!choices) return;
  offer(choices, "");
  form.querySelector("[data-message]").textContent = "";
  const insist = form.querySelector("button[name=insist]");
  if (insist) insist.hidden = true;
});

// Names that have in them what is typed, where there are more than the page has.
let suggesting = null;
document.addEventListener("input", async (event) => {
  const names = event.target.list;
  if (!names || !("more" in names.dataset)) return;
  suggesting?.abort();
  suggesting = new AbortController();
  const query = new URLSearchParams({ name: event.target.value });
  try {
    const response = await fetch(`/fragments/names?${query}`, { signal: suggesting.signal });
    const found = response.ok ? await response.json() : [];
    names.replaceChildren(...found.map((name) => Object.assign(document.createElement("option"), { value: name })));
  } catch {
    // Something else was typed meanwhile, or the connection is lost: one can still type.
  }
});

// In an open dialog the keyboard stays in it; Esc closes it, and the button behind it has the focus.
document.addEventListener("keydown", (event) => {
  const dialog = event.key === "Tab" && event.target.closest(".dialog:popover-open");
  if (!dialog) return;
  const stops = [...dialog.querySelectorAll("button")];
  if (event.shiftKey) stops.reverse();
  if (event.target !== stops.at(-1)) return;
  event.preventDefault();
  stops[0].focus();
});

// A box and the card of its face show each other.
for (const [type, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
  document.addEventListener(type, (event) => {
    const card = event.target.closest?.(".face-card");
    if (!card) return;
    document.querySelector(`.overlay [data-face="${card.dataset.face}"]`)?.classList.toggle("lit", on);
  });
}

showTimes();
setInterval(showTimes, 20000);
refresh();

// ---- Dropping -----------------------------------------------------------------------------------

// On a page that takes files they may be dropped anywhere; its own script gets them as "dropped".
const drop = document.getElementById("drop");
if (drop) {
  let depth = 0;
  let ours = false; // a picture of this page is dragged, which browsers offer as a file, too
  const isFiles = (event) => !ours && event.dataTransfer?.types.includes("Files");
  const cover = (change) => {
    depth = Math.max(0, depth + change);
    drop.hidden = depth === 0;
  };
  addEventListener("dragstart", () => { ours = true; });
  addEventListener("dragend", () => { ours = false; });
  addEventListener("dragenter", (event) => isFiles(event) && cover(1));
  addEventListener("dragleave", (event) => isFiles(event) && cover(-1));
  addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    cover(-depth);
    drop.dispatchEvent(new CustomEvent("dropped", { detail: event.dataTransfer }));
  });
}
