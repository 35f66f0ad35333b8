// The review page: survey, photos with sliders, pairs. What is shown is the desk as the server knows it, and on top of it the
// answers that are still on their way. The place is in the address (#3), so reload and the back button stay true.
import * as outbox from "./outbox.js";
import { draw as drawSurvey, make } from "./survey.js";
import { label, speak, spoken, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const PANES = ["wait", "survey", "review", "compare", "end"];
let desk;
let at = 0;
let now = {}; // scores of the photo on screen, null = can't tell
let active;
let showing; // the photo
let meshOn = false;
let past = []; // steps answered in this visit, the latest last
let state = ["saved", {}];

const expert = () => desk.role === "expert";
const step = () => desk.steps[at];
const kept = (item) => `physique:now:${desk.person_id}:${item.round ?? 0}:${item.photo_id}`;
const surveyKept = () => `physique:survey:${desk.person_id}`;
const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(1));
const done = (each) => (each.item ? Boolean(each.item.answer) : each.answer !== null && each.answer !== undefined);

async function load() {
  let reply;
  try {
    reply = await fetch("/api/desk");
  } catch {
    return setTimeout(load, 2000);
  }
  if (reply.status === 401) return location.reload();
  if (!reply.ok) return setTimeout(load, 2000);
  const first = !desk;
  const fresh = await reply.json();
  if (!first && fresh.person_id !== desk.person_id) return tell("other", { waiting: outbox.waiting().length });
  desk = fresh;
  active ??= desk.dimensions[0];
  for (const each of desk.steps) if (each.item) each.stack = each.item.answer ? [each.item.answer] : [];
  if (first) outbox.open(desk.person_id, tell, (answer) => { apply(answer); progress(); });
  for (const answer of outbox.waiting()) apply(answer);
  sliders();
  show();
}

// Put an answer on the desk, as the server will once it has it.
function apply({ kind, payload }) {
  if (kind === "survey") return void (desk.surveyed = payload.version === desk.survey.version);
  if (kind === "comparison") {
    const same = ({ pair }) => pair && ["photo_id", "other_id", "dimension"].every((name) => pair[name] === payload[name]);
    const found = desk.steps.find(same);
    if (found) found.answer = payload.value;
    return;
  }
  const found = desk.steps.find(({ item }) => item && item.photo_id === payload.photo_id && (item.round ?? undefined) === (payload.round ?? undefined));
  if (!found) return;
  if (kind === "thumb") return void (found.thumb = payload.value);
  if (kind === "undo") found.stack.pop();
  else found.stack.push(payload);
  found.item.answer = found.stack.at(-1) ?? null;
}

function give(kind, payload) {
  apply({ kind, payload });
  outbox.put(kind, payload);
}

function tell(name, about) {
  if (name === "refused") {
    notice(word("refused", { why: about.why }));
    again(about.answer);
    return load();
  }
  if (name === "other" && state[0] !== "other") notice(word("otherWhy"));
  state = [name, about];
  $("state").textContent = word(name, { n: about.waiting });
  $("state").dataset.is = name;
  if (desk.surveyed && desk.steps.length && !$("end").hidden) finish();
}

// What was refused is on the screen again, as it was typed.
function again({ kind, payload }) {
  if (kind === "survey") localStorage.setItem(surveyKept(), JSON.stringify(payload.answers));
  if (kind !== "review" && kind !== "rating") return;
  const scores = Object.fromEntries(desk.dimensions.map((name) => [name, payload[name]]));
  localStorage.setItem(kept(payload), JSON.stringify({ scores, comment: payload.comment ?? "" }));
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// which pane, which step

function show() {
  label();
  $("language").textContent = spoken() === "zh" ? "English" : "中文";
  $("language").lang = spoken() === "zh" ? "en" : "zh";
  tell(...state);
  $("keys").replaceChildren(...word("keys").flatMap(([key, what]) => [make("dt", {}, ...key.split("  ").map((each) => make("kbd", {}, each))), make("dd", {}, what)]));
  const photos = progress();
  if (!desk.surveyed) {
    drawSurvey(desk.survey, desk.former, surveyKept(), (filled) => { give("survey", filled); show(); });
    return pane("survey");
  }
  if (!desk.steps.length) return ending("emptyTitle", word("emptyText"), false);
  if (location.hash === "#end") return finish();
  const asked = Number(location.hash.slice(1));
  if (!Number.isInteger(asked) || asked < 1 || asked > desk.steps.length) {
    const open = desk.steps.findIndex((each) => !done(each));
    history.replaceState(null, "", open < 0 ? "#end" : `#${open + 1}`);
    return show();
  }
  at = asked - 1;
  if (step().item) showPhoto(photos.indexOf(step()) + 1, photos.length);
  else showPair();
  for (const each of desk.steps.slice(at + 1, at + 3)) if (each.item) new Image().src = `/photos/${each.item.photo_id}.jpg`;
}

function progress() {
  const photos = desk.steps.filter((each) => each.item);
  const ready = photos.filter(done).length;
  $("progress").max = Math.max(1, photos.length);
  $("progress").value = ready;
  $("count").textContent = word("reviewed", { n: ready, m: photos.length });
  return photos;
}

const firstOpen = () => desk.steps.findIndex((each) => each.item && !done(each));

function pane(name) {
  const changed = $(name).hidden;
  for (const each of PANES) $(each).hidden = each !== name;
  if (changed) scrollTo(0, 0);
}

// "All done" only when the server has every answer: whoever reads it closes the page.
function finish() {
  const left = desk.steps.filter((each) => each.item && !done(each)).length;
  const unsent = outbox.waiting().length;
  if (left) ending("leftTitle", word("leftText", { n: left }), true);
  else if (unsent) ending("sendingTitle", word("sendingText", { n: unsent }), true);
  else ending("endTitle", word("endText"), true);
}

function ending(title, text, again) {
  $("endtitle").textContent = word(title);
  $("endtext").textContent = text;
  $("again").hidden = !again;
  pane("end");
}

function go(next) {
  notice("");
  const place = next < 0 ? "#1" : next >= desk.steps.length ? "#end" : `#${next + 1}`;
  // at once, not with the next hashchange: a second key may come before that
  if (place !== location.hash) history.pushState(null, "", place);
  show();
}

// a photo

function showPhoto(place, of) {
  const { item, thumb } = step();
  if (showing !== item.photo_id) active = desk.dimensions[0]; // every photo begins with the first slider
  showing = item.photo_id;
  const begun = JSON.parse(localStorage.getItem(kept(item)) ?? "null");
  const source = begun?.scores ?? item.answer ?? item.suggested;
  now = Object.fromEntries(desk.dimensions.map((name) => [name, source[name] ?? null]));
  $("comment").value = begun?.comment ?? item.answer?.comment ?? "";
  $("comment").placeholder = word("commentHint");
  $("place").textContent = word(item.answer ? "placeDone" : "place", { n: place, m: of });
  $("thumbs").hidden = expert();
  for (const button of $("thumbs").querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.value) === thumb));
  $("back").disabled = at === 0;
  $("undo").disabled = !item.answer && !past.length;
  picture(place);
  pane("review");
  refresh();
  $(`slide-${active}`).focus({ preventScroll: true });
}

function picture(place) {
  const { item } = step();
  const source = `/${meshOn ? "meshes" : "photos"}/${item.photo_id}.jpg`;
  const photo = $("photo");
  $("mesh").setAttribute("aria-pressed", String(meshOn));
  photo.alt = word(meshOn ? "meshAlt" : "photoAlt", { n: place });
  if (photo.getAttribute("src") === source && !photo.hidden) return;
  photo.hidden = false;
  $("missing").hidden = true;
  photo.src = source;
  loading(true);
}

function loading(is) {
  document.querySelector(".stage").classList.toggle("loading", is);
}

$("photo").onload = () => loading(false);
$("photo").onerror = () => {
  loading(false);
  $("photo").hidden = true;
  $("missing").hidden = false;
  $("missing").textContent = word(meshOn ? "meshMissing" : "photoMissing");
};

function sliders() {
  $("sliders").replaceChildren(...desk.dimensions.map((name) => {
    const range = make("input", { type: "range", id: `slide-${name}`, min: 0, max: 10, step: 0.1 });
    range.oninput = () => set(name, Number(range.value));
    range.onfocus = () => { active = name; refresh(); };
    const cant = make("input", { type: "checkbox" });
    cant.onchange = () => set(name, cant.checked ? null : step().item.suggested[name] ?? 5);
    const draft = make("button", { type: "button", class: "draft" });
    draft.onclick = () => set(name, step().item.suggested[name]);
    return make("div", { class: "slider", "data-name": name },
      make("label", { for: range.id, class: "name", "data-word": name }),
      make("span", { class: "change" }), make("output", { for: range.id }),
      make("div", { class: "track" }, range, make("i", { class: "mark", "aria-hidden": "true" })),
      draft, make("label", { class: "cant" }, cant, make("span", { "data-word": "cantTell" })));
  }));
}

function set(name, value) {
  active = name;
  now[name] = value === null ? null : Math.round(Math.min(10, Math.max(0, value)) * 10) / 10;
  keep();
  refresh();
}

function keep() {
  localStorage.setItem(kept(step().item), JSON.stringify({ scores: now, comment: $("comment").value }));
}

function refresh() {
  const { item } = step();
  if (!item) return;
  for (const box of document.querySelectorAll(".slider")) {
    const name = box.dataset.name;
    const [value, draft] = [now[name], item.suggested[name]];
    const moved = value === null || draft === null ? 0 : Math.round((value - draft) * 10) / 10;
    const change = moved ? `${moved > 0 ? "+" : "−"}${Math.abs(moved).toFixed(1)}` : "";
    const range = box.querySelector("input[type=range]");
    range.value = value ?? draft ?? 5;
    range.setAttribute("aria-valuetext", value === null ? word("cantTell") : `${shown(value)} ${change}`);
    box.style.setProperty("--value", (value ?? draft ?? 5) / 10);
    box.style.setProperty("--draft", (draft ?? 0) / 10);
    box.classList.toggle("active", name === active);
    box.classList.toggle("unsure", value === null);
    box.querySelector("output").textContent = shown(value);
    box.querySelector(".change").textContent = change;
    box.querySelector(".change").dataset.way = Math.sign(moved);
    box.querySelector(".mark").hidden = draft === null;
    box.querySelector(".cant input").checked = value === null;
    const back = box.querySelector(".draft");
    back.textContent = `${word(expert() ? "draft" : "predicted")} ${shown(draft)}`;
    back.setAttribute("aria-label", word("toDraft", { v: shown(draft) }));
    back.disabled = draft === null || value === draft;
  }
  const same = desk.dimensions.every((name) => now[name] === item.suggested[name]) && !$("comment").value.trim();
  $("save").textContent = word(same && step().thumb !== -1 ? "confirm" : "saveNext");
}

function save() {
  const { item } = step();
  const payload = { photo_id: item.photo_id, ...now };
  const comment = $("comment").value.trim();
  if (comment) payload.comment = comment;
  if (expert()) payload.round = item.round;
  else payload.model_version = item.model_version;
  const last = firstOpen() === at;
  give(expert() ? "review" : "rating", payload);
  localStorage.removeItem(kept(item));
  past.push(at);
  go(last && firstOpen() < 0 && desk.steps.every(done) ? desk.steps.length : at + 1); // the last gap is filled
}

// Take back the answer to this photo; if it has none, go back to the one answered last and take that back.
function undo() {
  if (!step().item?.answer) {
    const last = past.pop();
    if (last === undefined) return;
    takeBack(desk.steps[last].item);
    return go(last);
  }
  past = past.filter((each) => each !== at);
  takeBack(step().item);
  show();
}

function takeBack(item) {
  if (!item?.answer) return;
  give("undo", expert() ? { photo_id: item.photo_id, round: item.round } : { photo_id: item.photo_id });
  localStorage.removeItem(kept(item));
}

function thumb(value) {
  const { item } = step();
  give("thumb", { photo_id: item.photo_id, value, model_version: item.model_version });
  show();
}

function toggleMesh() {
  meshOn = !meshOn;
  show();
}

// a pair

function showPair() {
  const { pair, answer } = step();
  $("which").textContent = word("which")[pair.dimension];
  [["one", pair.photo_id, 1], ["other", pair.other_id, -1]].forEach(([name, photo, value]) => {
    const image = $(name).querySelector("img");
    image.src = `/photos/${photo}.jpg`;
    image.alt = word("photoAlt", { n: desk.steps.filter((each) => each.item).findIndex((each) => each.item.photo_id === photo) + 1 });
    $(name).setAttribute("aria-pressed", String(answer === value));
  });
  $("neither").setAttribute("aria-pressed", String(answer === 0));
  pane("compare");
}

function prefer(value) {
  give("comparison", { ...step().pair, value });
  go(at + 1);
}

// what people do

$("panel").onsubmit = (event) => { event.preventDefault(); save(); };
$("back").onclick = $("pairback").onclick = () => go(at - 1);
$("forward").onclick = $("pairforward").onclick = () => go(at + 1);
$("undo").onclick = undo;
$("mesh").onclick = toggleMesh;
$("one").onclick = () => prefer(1);
$("other").onclick = () => prefer(-1);
$("neither").onclick = () => prefer(0);
$("again").onclick = () => go(Math.max(0, firstOpen()));
$("comment").oninput = () => { keep(); refresh(); };
$("ask").onclick = () => $("help").showModal();
$("notice").onclick = () => notice("");
$("language").onclick = () => { speak(spoken() === "zh" ? "en" : "zh"); show(); };
for (const button of $("thumbs").querySelectorAll("button")) button.onclick = () => thumb(Number(button.dataset.value));
addEventListener("hashchange", show);
addEventListener("online", () => desk && show());

const turn = (by) => () => {
  const names = desk.dimensions;
  active = names[(names.indexOf(active) + by + names.length) % names.length];
  $(`slide-${active}`).focus({ preventScroll: true });
};
const move = (by) => (event) => set(active, (now[active] ?? step().item.suggested[active] ?? 5) + by * (event.shiftKey ? 10 : 1));
const KEYS = {
  review: {
    ArrowUp: turn(-1), ArrowDown: turn(1), ArrowLeft: move(-0.1), ArrowRight: move(0.1), Enter: () => save(),
    x: () => set(active, now[active] === null ? step().item.suggested[active] ?? 5 : null),
    d: () => step().item.suggested[active] !== null && set(active, step().item.suggested[active]),
    c: () => $("comment").focus(), m: toggleMesh, u: undo,
    "+": () => expert() || thumb(1), "-": () => expert() || thumb(-1),
  },
  compare: { a: () => prefer(1), b: () => prefer(-1), 0: () => prefer(0), u: undo },
  end: { u: () => undo() },
};

addEventListener("keydown", (event) => {
  if (!desk || $("help").open || event.metaKey || event.altKey) return;
  const written = event.target.matches("textarea, input:not([type=range]):not([type=checkbox])");
  if (written && event.key === "Escape") return event.target.blur();
  if (written && event.key === "Enter" && event.ctrlKey && !$("review").hidden) return save();
  if (written || event.ctrlKey) return;
  if (event.key === "Enter" && event.target.matches("button, a")) return;
  const open = PANES.find((name) => !$(name).hidden);
  const moves = { n: () => go(at + 1), p: () => go(open === "end" ? desk.steps.length - 1 : at - 1) };
  const everywhere = { "?": () => $("help").showModal(), l: () => $("language").click(), ...(open === "survey" ? {} : moves) };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const act = KEYS[open]?.[key] ?? everywhere[key];
  if (!act) return;
  event.preventDefault();
  act(event);
});

label();
load();
