// Uploads from the page of pictures: chosen files, dropped files and folders, a few at a time.

const csrf = document.querySelector("meta[name=csrf-token]")?.content;
const form = document.getElementById("upload");
const input = document.getElementById("files");
const panel = document.getElementById("uploads");
const list = document.getElementById("uploads-list");
const title = document.getElementById("uploads-title");
const again = document.getElementById("uploads-again");

const AT_A_TIME = 3;
const RETRY_MS = 5000;
const DONE_SHOWN = 50; // of thousands, the last
const MAX_DEPTH = 40; // of folders in folders

const CHANGED = "The file was changed or removed after it was chosen. Choose it again.";

const waiting = [];
let running = 0;
let offline = false; // tried, not asked: a browser calls itself offline on a machine that has only itself
let reading = 0; // folders
let tally = { all: 0, done: 0, failed: 0 };

// ---- The queue ----------------------------------------------------------------------------------

function add(files) {
  for (const file of files) waiting.push({ file, size: file.size });
  tally.all += files.length;
  if (files.length) panel.hidden = false;
  start();
}

function start() {
  while (!offline && running < AT_A_TIME && waiting.length) {
    running += 1;
    transfer(waiting.shift()).finally(() => {
      running -= 1;
      start();
    });
  }
  const busy = running + waiting.length + reading > 0;
  // Only now, since pages with this listener are not kept for the browser's Back button.
  if (busy) addEventListener("beforeunload", ask);
  else removeEventListener("beforeunload", ask);
  again.hidden = !list.querySelector("li.passing");
  const text = inWords(busy);
  if (title.textContent !== text) title.textContent = text;
}

function resume() {
  offline = false;
  start();
}

function ask(event) {
  event.preventDefault();
}

function inWords(busy) {
  const failed = tally.failed ? `${tally.failed} failed` : "";
  if (!busy) return [tally.done ? `${tally.done} uploaded` : "", failed].filter(Boolean).join(", ") || "Uploads";
  let now = `Uploading ${Math.min(tally.done + tally.failed + 1, tally.all)} of ${tally.all}`;
  if (offline) now = `Waiting for the connection, ${tally.done} of ${tally.all} uploaded`;
  else if (reading && !running) now = "Looking for pictures";
  return failed ? `${now}, ${failed}` : now;
}

async function transfer(upload) {
  const { file } = upload;
  show(upload);
  try {
    const limit = Number(form.dataset.maxBytes);
    if (file.size !== upload.size) throw new Failure(CHANGED);
    if (file.size === 0) throw new Failure("The file is empty.");
    if (file.size > limit) throw new Failure(`Larger than ${Math.floor(limit / 2 ** 20)} MB.`);
    const [answer] = await post(file, (part) => {
      upload.bar.value = part;
      upload.state.textContent = part < 1 ? `${Math.round(part * 100)} %` : "Almost there";
    });
    finish(upload, answer);
  } catch (error) {
    if (error.unanswered && !navigator.onLine) {
      upload.item.remove();
      waiting.unshift(upload);
      if (!offline) setTimeout(resume, RETRY_MS);
      offline = true;
      return;
    }
    fail(upload, error);
  }
  if (tally.done + tally.failed === tally.all) say(inWords(false));
  document.dispatchEvent(new Event("changed"));
}

class Failure extends Error {
  /** One that is `passing` may be gone when the same is tried again. */
  constructor(message, passing = false) {
    super(message);
    this.passing = passing;
  }
}

// XMLHttpRequest, because fetch does not tell how far an upload is.
function post(file, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    if (csrf) request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
    request.addEventListener("load", () => {
      const { status, response } = request;
      if (status === 202 && response?.images) return resolve(response.images);
      const passing = status === 408 || status === 429 || status >= 500;
      return reject(new Failure(response?.message ?? `The server answered ${status}.`, passing));
    });
    request.addEventListener("error", async () => reject(await lost(file)));
    const data = new FormData();
    data.append("files", file);
    request.send(data);
  });
}

/** Tell why nothing was sent: browsers say the same for a file that is no longer what was chosen. */
async function lost(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return Object.assign(new Failure("The connection was lost. Try again.", true), { unanswered: true });
  } catch {
    return new Failure(CHANGED);
  }
}

// ---- The list -----------------------------------------------------------------------------------

function show(upload) {
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", `Upload of ${upload.file.name}`);
  Object.assign(upload, line(upload.file.name, "Sending"), { bar });
  upload.item.insertBefore(bar, upload.state);
}

function line(text, state) {
  const made = { item: document.createElement("li"), name: document.createElement("bdi"), state: document.createElement("span") };
  made.name.className = "file-name";
  made.name.textContent = text;
  made.name.title = text;
  made.state.className = "state";
  made.state.textContent = state;
  made.item.append(made.name, made.state);
  list.prepend(made.item);
  return made;
}

function finish({ item, name, bar, state }, answer) {
  tally.done += 1;
  bar.remove();
  item.classList.add("done");
  state.textContent = answer.duplicate ? "Known already: the same picture was uploaded before. " : "Uploaded. ";
  const link = document.createElement("a");
  link.href = `/images/${answer.id}`;
  link.textContent = "Show it";
  link.setAttribute("aria-label", `Show ${name.textContent}`);
  state.append(link);
  for (const old of [...list.querySelectorAll("li.done")].slice(DONE_SHOWN)) old.remove();
}

/** Show a failure on top, also to somebody who has closed the list. */
function fail(upload, { message, passing }) {
  tally.failed += 1;
  upload.bar.remove();
  upload.state.textContent = message;
  upload.item.classList.add("failed");
  upload.item.classList.toggle("passing", Boolean(passing));
  upload.item.upload = upload;
  list.prepend(upload.item);
  list.scrollTop = 0;
  panel.hidden = false;
  say(`${upload.file.name}: ${message}`);
}

function say(text) {
  document.getElementById("uploads-status").textContent = text;
}

// ---- Folders ------------------------------------------------------------------------------------

const kinds = new Set(input.accept.split(","));
const JUNK = /^(\.|Thumbs\.db$|desktop\.ini$|__MACOSX$)/i;

/** Upload the pictures of a folder and of those in it; say what else was there. */
async function addFolder(folder) {
  const found = { pictures: 0, others: 0, unread: 0 };
  reading += 1;
  panel.hidden = false;
  start();
  await visit(folder, 1, found);
  reading -= 1;
  const parts = [];
  if (!found.pictures && !found.others && !found.unread) parts.push("the folder is empty");
  else if (!found.pictures) parts.push("no pictures in this folder");
  if (found.others) parts.push(`${count(found.others, "other file")} skipped`);
  if (found.unread) parts.push(`${count(found.unread, "file or folder", "files or folders")} could not be read`);
  if (parts.length) {
    const text = `${parts.join(", ")}.`;
    line(folder.name, text[0].toUpperCase() + text.slice(1)).item.classList.add(found.pictures && !found.unread ? "note" : "failed");
    say(`${folder.name}: ${text}`);
  }
  start();
}

async function visit(folder, depth, found) {
  const files = [];
  const folders = [];
  try {
    for (const entry of await entriesOf(folder)) {
      if (JUNK.test(entry.name)) found.others += 1;
      else if (entry.isDirectory) folders.push(entry);
      else {
        try {
          const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
          // Browsers know by no means the types of all that is taken.
          if (kinds.has(file.type) || kinds.has(file.name.toLowerCase().replace(/^.*(?=\.)/, ""))) files.push(file);
          else found.others += 1;
        } catch {
          found.unread += 1;
        }
      }
    }
  } catch {
    found.unread += 1;
  }
  found.pictures += files.length;
  add(files);
  if (depth === MAX_DEPTH) found.unread += folders.length;
  else for (const one of folders) await visit(one, depth + 1, found);
}

async function entriesOf(folder) {
  const reader = folder.createReader();
  const all = [];
  // Each call gives some, at most 100 in Chromium; none are left when it gives none.
  for (;;) {
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return all.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    all.push(...some);
  }
}

function count(number, one, more = `${one}s`) {
  return `${number} ${number === 1 ? one : more}`;
}

// ---- Choosing and dropping ----------------------------------------------------------------------

document.getElementById("drop").addEventListener("dropped", ({ detail: dropping }) => {
  // All at once: what was dropped can no longer be asked for after the event.
  const items = [...dropping.items].filter((item) => item.kind === "file");
  const dropped = items.map((item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }));
  add(dropped.filter(({ entry, file }) => file && !entry?.isDirectory).map(({ file }) => file));
  for (const { entry } of dropped) if (entry?.isDirectory) addFolder(entry);
});

input.addEventListener("change", () => {
  add([...input.files]);
  input.value = "";
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  input.click();
});

again.addEventListener("click", () => {
  for (const item of list.querySelectorAll("li.passing")) {
    item.remove();
    waiting.push(item.upload);
    tally.failed -= 1;
  }
  start();
});

document.getElementById("uploads-close").addEventListener("click", () => {
  panel.hidden = true;
  for (const item of list.querySelectorAll("li.done, li.failed, li.note")) item.remove();
  tally = { all: tally.all - tally.done - tally.failed, done: 0, failed: 0 };
  start();
});

addEventListener("online", resume);
