// Keeps a page live and uploads without reloading. Every form also works without this script.

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
    if (response.status === 404) location.assign("/");
    if (response.status === 200) {
      const parsed = new DOMParser().parseFromString(await response.text(), "text/html");
      const complete = patch(parsed.querySelector("main"));
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
  for (const item of [...list.children]) {
    existing.set(item.dataset.key, item);
    if (wanted.has(item.dataset.key)) continue;
    if (isBusy(item)) complete = false;
    else item.remove();
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
  return complete;
}

/** Replace an element unless somebody works in it; focus and loaded pictures stay. */
function swap(old, fresh) {
  if (isBusy(old)) return false;
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
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
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  return true;
}

function isBusy(element) {
  if (element.querySelector(":popover-open, form[data-sending]")) return true;
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

async function send(form) {
  const message = form.querySelector("[data-message]");
  if (message) message.textContent = "";
  const body = form.enctype === "multipart/form-data" ? new FormData(form) : new URLSearchParams(new FormData(form));
  form.dataset.sending = "";
  try {
    const response = await fetch(form.action, { method: "POST", body, headers: { Accept: "application/json" } });
    const answer = await response.json();
    if (!response.ok) return tell(message, answer.message);
    if (form.dataset.then) return location.assign(form.dataset.then);
    form.closest("[popover]")?.hidePopover();
    // What was typed is saved: the form no longer holds back the fresh version.
    form.reset();
    for (const input of form.querySelectorAll("input[list]")) input.value = input.defaultValue;
  } catch {
    tell(message, "The connection is lost. Try again in a moment.");
  } finally {
    delete form.dataset.sending;
  }
  return refresh();
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
  if (!("sending" in event.target.dataset)) send(event.target);
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

// A box and the card of its face show each other.
for (const [type, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
  document.addEventListener(type, (event) => {
    const card = event.target.closest?.(".face-card");
    if (!card) return;
    document.querySelector(`.overlay [data-face="${card.dataset.face}"]`)?.classList.toggle("lit", on);
  });
}

// ---- Uploads ------------------------------------------------------------------------------------

const upload = document.getElementById("upload");
const AT_A_TIME = 3;
const waiting = [];
let running = 0;

function add(files) {
  const list = document.getElementById("uploads-list");
  for (const file of files) {
    const item = document.createElement("li");
    const name = document.createElement("bdi");
    name.className = "file-name";
    name.textContent = file.name;
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Upload of ${file.name}`);
    const state = document.createElement("span");
    state.className = "state";
    state.textContent = "Waiting";
    item.append(name, bar, state);
    list.prepend(item);
    waiting.push({ file, item, bar, state });
  }
  document.getElementById("uploads").hidden = false;
  start();
}

function start() {
  while (running < AT_A_TIME && waiting.length) {
    running += 1;
    transfer(waiting.shift()).finally(() => {
      running -= 1;
      start();
    });
  }
  const items = [...document.querySelectorAll("#uploads-list li")];
  const done = items.filter((item) => item.matches(".done, .failed")).length;
  const text = done < items.length ? `Uploading ${done + 1} of ${items.length}` : "Uploads";
  document.getElementById("uploads-title").textContent = text;
}

async function transfer({ file, item, bar, state }) {
  const limit = Number(upload.dataset.maxBytes);
  try {
    if (file.size === 0) throw new Error("The file is empty.");
    if (file.size > limit) throw new Error(`Larger than ${Math.floor(limit / 2 ** 20)} MB.`);
    const [answer] = await post(file, (part) => {
      bar.value = part;
      state.textContent = part < 1 ? `${Math.round(part * 100)} %` : "Almost there";
    });
    item.classList.add("done");
    state.textContent = answer.duplicate ? "Known already: the same picture was uploaded before" : "Uploaded";
  } catch (error) {
    item.classList.add("failed");
    state.textContent = error.message;
  }
  bar.remove();
  document.getElementById("uploads-status").textContent = `${file.name}: ${state.textContent}`;
  refresh();
}

// XMLHttpRequest, because fetch does not tell how far an upload is.
function post(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", upload.action);
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status === 202) resolve(request.response.images);
      else reject(new Error(request.response?.message ?? `The server answered ${request.status}.`));
    });
    request.addEventListener("error", () => reject(new Error("The connection was lost. Try again.")));
    const data = new FormData();
    data.append("files", file);
    request.send(data);
  });
}

if (upload) {
  const drop = document.getElementById("drop");
  const input = document.getElementById("files");
  let depth = 0;
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (change) => {
    depth = Math.max(0, depth + change);
    drop.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => isFiles(event) && show(1));
  addEventListener("dragleave", (event) => isFiles(event) && show(-1));
  addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    show(-depth);
    add(event.dataTransfer.files);
  });
  input.addEventListener("change", () => {
    add([...input.files]);
    input.value = "";
  });
  upload.addEventListener("submit", (event) => {
    event.preventDefault();
    input.click();
  });
  document.getElementById("uploads-close").addEventListener("click", () => {
    document.getElementById("uploads").hidden = true;
    for (const item of document.querySelectorAll("#uploads-list li.done, #uploads-list li.failed")) item.remove();
  });
}

showTimes();
setInterval(showTimes, 20000);
refresh();
