// Draws the box of a face on a picture. Without this script its four numbers are typed.

const SIDES = ["left", "top", "right", "bottom"];
const LEAST = 8; // pixels of the picture on a side, as the receiver wants
const FIRST = 0.25; // of the picture's shorter side: where the keyboard begins
const GRIP = 7; // pixels of the screen
const REACH = { touch: 26, pen: 18, mouse: 12 }; // of the screen, around a corner

let box = null; // in pixels of the upright picture, maybe fractions
let drag = null;

const form = () => document.querySelector("form.draw");
const panel = () => form()?.querySelector(".draw-panel");
const canvas = () => document.getElementById("canvas");
const svg = () => canvas().querySelector("svg");

function limits() {
  return { width: Number(svg().dataset.width), height: Number(svg().dataset.height) };
}

/** Return where something on the screen is in the picture, whatever its size on the screen is. */
function inPicture(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg().getScreenCTM().inverse());
  return { x: point.x, y: point.y };
}

/** Return how many pixels of the picture one of the screen is. */
function scale() {
  return 1 / svg().getScreenCTM().a;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Make a box of two corners, within the picture and not too small. */
function between(x, y, otherX, otherY) {
  const { width, height } = limits();
  const [left, right] = span(x, otherX, width);
  const [top, bottom] = span(y, otherY, height);
  return { left, top, right, bottom };
}

/** Order two ends and keep them apart; the first one stays where it is, if there is room. */
function span(fixed, moving, limit) {
  fixed = clamp(fixed, 0, limit);
  moving = clamp(moving, 0, limit);
  if (Math.abs(moving - fixed) < LEAST) {
    const up = moving >= fixed ? fixed + LEAST <= limit : fixed - LEAST < 0;
    moving = fixed + (up ? LEAST : -LEAST);
  }
  return fixed < moving ? [fixed, moving] : [moving, fixed];
}

function moved(start, byX, byY) {
  const { width, height } = limits();
  const x = clamp(byX, -start.left, width - start.right);
  const y = clamp(byY, -start.top, height - start.bottom);
  return { left: start.left + x, top: start.top + y, right: start.right + x, bottom: start.bottom + y };
}

// ---- Showing it ---------------------------------------------------------------------------------

function show() {
  const { width, height } = limits();
  canvas().classList.toggle("drawn", box !== null);
  const whole = `M0 0H${width}V${height}H0Z`;
  const hole = box ? `M${box.left} ${box.top}H${box.right}V${box.bottom}H${box.left}Z` : "";
  svg().querySelector(".shade").setAttribute("d", whole + hole);
  for (const side of SIDES) form().elements[side].value = box ? Math.round(box[side]) : "";
  if (!box) return;
  for (const rect of svg().querySelectorAll("rect")) {
    rect.setAttribute("x", box.left);
    rect.setAttribute("y", box.top);
    rect.setAttribute("width", box.right - box.left);
    rect.setAttribute("height", box.bottom - box.top);
  }
  const corners = [[box.left, box.top], [box.right, box.top], [box.right, box.bottom], [box.left, box.bottom]];
  for (const [index, grip] of [...svg().querySelectorAll(".grip")].entries()) {
    grip.setAttribute("cx", corners[index][0]);
    grip.setAttribute("cy", corners[index][1]);
    grip.setAttribute("r", GRIP * scale());
  }
}

/** Tell a screen reader where the box is. */
function say() {
  const [left, top, right, bottom] = SIDES.map((side) => Math.round(box[side]));
  const { width, height } = limits();
  document.getElementById("draw-said").textContent =
    `${right - left} by ${bottom - top} pixels, ${left} from the left and ${top} from the top of ${width} by ${height}.`;
}

function open() {
  box = null;
  for (const side of SIDES) form().elements[side].required = false; // drawn, not typed
  canvas().hidden = false;
  show();
  canvas().scrollIntoView({ block: "nearest" });
  canvas().focus({ preventScroll: true });
}

function close() {
  if (!panel() || canvas().hidden) return;
  const inside = form().contains(document.activeElement);
  canvas().hidden = true;
  panel().open = false;
  drag = null;
  if (inside) document.getElementById("draw").focus({ preventScroll: true });
}

// The panel is opened by its summary, also with the keyboard; this event does not bubble.
document.addEventListener("toggle", (event) => {
  if (event.target !== panel() || event.target.open === !canvas().hidden) return;
  if (event.target.open) open();
  else form().reset();
}, true);

// Saved, or given up.
document.addEventListener("reset", (event) => {
  if (event.target === form()) close();
});

document.addEventListener("click", (event) => {
  if (event.target.closest("#draw-cancel")) form().reset();
});

addEventListener("resize", () => {
  if (canvas() && !canvas().hidden) show();
});

// ---- Mouse, pen and finger ----------------------------------------------------------------------

document.addEventListener("pointerdown", (event) => {
  if (drag || event.button !== 0 || !event.target.closest?.("#canvas")) return;
  event.preventDefault();
  canvas().focus({ preventScroll: true });
  canvas().setPointerCapture(event.pointerId);
  const at = inPicture(event);
  drag = { id: event.pointerId, ...grab(at, REACH[event.pointerType] ?? REACH.mouse), at };
});

/** Return what is dragged: a corner, whose opposite stays, the whole box, or a new one. */
function grab(at, reach) {
  const near = (x, y) => Math.hypot(at.x - x, at.y - y) <= reach * scale();
  for (const [x, y] of box ? [["left", "top"], ["right", "top"], ["right", "bottom"], ["left", "bottom"]] : []) {
    if (!near(box[x], box[y])) continue;
    return { from: { x: box[x === "left" ? "right" : "left"], y: box[y === "top" ? "bottom" : "top"] } };
  }
  const within = box && at.x >= box.left && at.x <= box.right && at.y >= box.top && at.y <= box.bottom;
  return within ? { start: box } : { from: at };
}

document.addEventListener("pointermove", (event) => {
  if (drag?.id !== event.pointerId) return;
  const at = inPicture(event);
  box = drag.start
    ? moved(drag.start, at.x - drag.at.x, at.y - drag.at.y)
    : between(drag.from.x, drag.from.y, at.x, at.y);
  show();
});

for (const type of ["pointerup", "pointercancel"]) {
  document.addEventListener(type, (event) => {
    if (drag?.id !== event.pointerId) return;
    drag = null;
    if (box) say();
  });
}

// ---- Keyboard -----------------------------------------------------------------------------------

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  if (!panel()?.open || !form().contains(event.target)) return;
  if (event.key === "Escape") {
    event.preventDefault();
    form().reset();
  } else if (event.target !== canvas()) {
    return;
  } else if (event.key === "Enter") {
    event.preventDefault();
    document.getElementById("draw-name").focus();
  } else if (event.key in ARROWS) {
    event.preventDefault();
    step(...ARROWS[event.key], event);
  }
});

/** Move the box by a fiftieth of the shorter side, with Alt by a pixel; with Shift change its size. */
function step(x, y, { shiftKey, altKey }) {
  const { width, height } = limits();
  const by = altKey ? 1 : Math.max(1, Math.round(Math.min(width, height) / 50));
  if (!box) {
    const half = (Math.min(width, height) * FIRST) / 2;
    box = between(width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half);
  } else if (shiftKey) {
    box = between(box.left, box.top, Math.max(box.right + x * by, box.left + LEAST), Math.max(box.bottom + y * by, box.top + LEAST));
  } else {
    box = moved(box, x * by, y * by);
  }
  show();
  say();
}
