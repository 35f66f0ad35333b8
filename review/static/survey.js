// The survey of the first visit. What is filled in is kept at every change, so a reload loses nothing.
import { spoken, word } from "./words.js";

const form = document.getElementById("questions");

export function draw(survey, former, store, done) {
  const kept = { ...former, ...JSON.parse(localStorage.getItem(store) ?? "{}") };
  form.replaceChildren();
  for (const about of ["object", "person"]) {
    const asked = survey.questions.filter((each) => each.about === about);
    if (!asked.length) continue;
    form.append(make("h2", {}, word(about === "object" ? "aboutObject" : "aboutPerson")), ...asked.map((each) => question(each, kept[each.id])));
  }
  const wrong = make("p", { id: "wrong", role: "alert", hidden: "" }, word("choose"));
  form.append(wrong, make("button", { class: "main", type: "submit" }, word("start")));
  form.oninput = () => localStorage.setItem(store, JSON.stringify(filled(survey)));
  form.onsubmit = (event) => {
    event.preventDefault();
    const answers = filled(survey);
    const open = survey.questions.filter((each) => (each.required && !answers[each.id]) || outside(each, answers[each.id]));
    for (const each of form.querySelectorAll("fieldset")) each.classList.toggle("open", open.some((one) => one.id === each.dataset.id));
    wrong.hidden = !open.length;
    if (open.length) return form.querySelector(".open input, .open textarea").focus();
    localStorage.removeItem(store);
    done({ version: survey.version, answers });
  };
}

function filled(survey) {
  const values = new FormData(form);
  return Object.fromEntries(survey.questions.map((each) => [each.id, (values.get(each.id) ?? "").trim()]).filter(([, value]) => value));
}

function outside(each, text) {
  return each.type === "number" && text !== undefined && !(Number(text) >= each.lo && Number(text) <= each.hi);
}

function question(each, value) {
  const words = each[spoken()];
  const box = make("fieldset", { "data-id": each.id }, make("legend", {}, words.text));
  if (!each.required) box.firstChild.append(make("span", { class: "soft" }, ` (${word("optional")})`));
  if (each.type === "choice") box.append(choices(each.id, each.values, words.options, value));
  else if (each.type === "scale") {
    const numbers = Array.from({ length: each.hi - each.lo + 1 }, (_, place) => String(each.lo + place));
    const row = choices(each.id, numbers, numbers, value);
    row.classList.add("scale");
    row.prepend(make("span", { class: "soft" }, words.ends[0]));
    row.append(make("span", { class: "soft" }, words.ends[1]));
    box.append(row);
  } else if (each.type === "number") {
    box.append(make("input", { type: "number", name: each.id, min: each.lo, max: each.hi, step: "any", inputmode: "decimal", value: value ?? "", "aria-label": words.text }));
  } else {
    const area = make("textarea", { name: each.id, rows: 2, maxlength: 2000, "aria-label": words.text });
    area.value = value ?? "";
    box.append(area);
  }
  return box;
}

function choices(name, values, names, chosen) {
  const row = make("div", { class: "choices" });
  values.forEach((value, place) => {
    const input = make("input", { type: "radio", name, value });
    input.checked = value === chosen;
    row.append(make("label", {}, input, make("span", {}, names[place])));
  });
  return row;
}

export function make(tag, attributes, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}
