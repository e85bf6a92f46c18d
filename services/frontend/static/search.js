// Searches without a reload, and shows the chosen picture with its faces, which only the browser has.

const csrf = document.querySelector("meta[name=csrf-token]")?.content;
const form = document.getElementById("search");
const input = document.getElementById("file");
const status = document.getElementById("search-status");
let latest = null; // a search that another one has overtaken shows nothing

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const [file] = input.files;
  if (!file) return;
  const data = new FormData(form, event.submitter);
  latest?.abort();
  const mine = latest = new AbortController();
  form.dataset.sending = "";
  status.textContent = "Searching";
  try {
    if (file.size > Number(form.dataset.maxBytes)) throw new Error(`The picture is larger than ${Math.floor(form.dataset.maxBytes / 2 ** 20)} MB.`);
    const response = await fetch(form.action, { method: "POST", body: data, headers: csrf ? { "X-CSRF-Token": csrf } : {}, signal: mine.signal }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The connection is lost. Try again in a moment.");
    });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("results");
    if (!fresh) throw new Error(page.querySelector("main p:not([hidden])")?.textContent ?? `The server answered ${response.status}.`);
    await showPicture(fresh, file);
    if (mine === latest) show(fresh);
  } catch (error) {
    if (mine === latest) refuse(error.message);
  } finally {
    if (mine === latest) delete form.dataset.sending;
  }
});

function show(fresh) {
  document.getElementById("results").replaceWith(fresh);
  const title = document.getElementById("results-title");
  status.textContent = title?.textContent ?? "";
  title?.focus({ preventScroll: true });
  // This address is of no stored face any more.
  if (location.search) history.replaceState(null, "", "/search");
}

function refuse(text) {
  const message = Object.assign(document.createElement("p"), { className: "refusal", textContent: text });
  message.setAttribute("role", "alert");
  document.getElementById("results").replaceChildren(message);
  status.textContent = "";
}

/** Lay the buttons of the faces over the picture, where the browser can show it. */
async function showPicture(results, file) {
  const buttons = [...results.querySelectorAll("[data-box]")];
  if (!buttons.length) return;
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) return;
  const scale = Math.min(1, 1200 / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The picture that you chose");
  const choices = results.querySelector(".its-faces");
  choices.classList.add("on-picture");
  choices.before(canvas);
  const stage = Object.assign(document.createElement("div"), { className: "picture" });
  canvas.before(stage);
  stage.append(canvas, choices);
  for (const button of buttons) {
    const [left, top, right, bottom] = button.dataset.box.split(" ").map(Number);
    Object.assign(button.style, {
      left: `${(100 * left) / picture.width}%`,
      top: `${(100 * top) / picture.height}%`,
      width: `${(100 * (right - left)) / picture.width}%`,
      height: `${(100 * (bottom - top)) / picture.height}%`,
    });
  }
  picture.close();
}

// ---- Dropping -----------------------------------------------------------------------------------

document.getElementById("drop").addEventListener("dropped", ({ detail: dropped }) => {
  const one = new DataTransfer();
  one.items.add(dropped.files[0]);
  input.files = one.files;
  form.requestSubmit();
});
