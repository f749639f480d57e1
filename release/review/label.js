"use strict";
// One task after the other. Labels stay in this browser until they are saved, so that a closed page loses nothing.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
const given = read(); // row to left, right or tie
let current = next();

function read() {
  try {
    return JSON.parse(localStorage.getItem(data.key)) || {};
  } catch {
    return {}; // this browser keeps nothing for such pages
  }
}

function keep() {
  try {
    localStorage.setItem(data.key, JSON.stringify(given));
  } catch {
    // as above: the lines to save are on the page
  }
}

function next() {
  const found = data.tasks.findIndex((task) => !(task.row in given));
  return found < 0 ? data.tasks.length : found;
}

function lines() {
  return data.tasks.filter((task) => task.row in given).map((task) => `${JSON.stringify({
    row: task.row, left_sha: task.left_sha, right_sha: task.right_sha, label: given[task.row], annotator: data.annotator,
  })}\n`).join("");
}

function show() {
  const task = data.tasks[current], done = Object.keys(given).length;
  at("task").hidden = !task;
  at("bar").max = data.tasks.length || 1;
  at("bar").value = done;
  at("count").textContent = task ? `${done} of ${data.tasks.length} labelled`
    : `All ${data.tasks.length} labelled. Save, and send the file back.`;
  at("saved").textContent = lines();
  document.querySelectorAll("[data-label]").forEach((button) => {
    button.disabled = !task;
    button.setAttribute("aria-pressed", String(Boolean(task) && given[task.row] === button.dataset.label));
  });
  at("back").disabled = current === 0;
  if (!task) {
    at("save").focus();
    return;
  }
  at("asked").replaceChildren(...task.messages.map((message) => {
    const text = document.createElement("p");
    text.className = `text ${message.role}`;
    text.textContent = message.content;
    return text;
  }));
  for (const name of ["left", "right", "reference"]) {
    at(name).textContent = task[name].trim() ? task[name] : "(empty)";
  }
  window.scrollTo(0, 0);
}

function label(choice) {
  const task = data.tasks[current];
  if (!task) return;
  given[task.row] = choice;
  keep();
  current += 1;
  if (current === data.tasks.length) current = next();
  show();
}

function back() {
  current = Math.max(0, current - 1);
  show();
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines()], { type: "application/x-ndjson" }));
  link.download = `${data.suite}-${data.annotator.replace(/[^\w.-]/g, "_")}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in KEYS) label(KEYS[event.key]);
  else if (event.key === "Backspace") back();
  else if (event.key === "s" || event.key === "S") save();
  else return;
  event.preventDefault();
});
document.querySelectorAll("[data-label]").forEach((button) => {
  button.addEventListener("click", () => label(button.dataset.label));
});
at("back").addEventListener("click", back);
at("save").addEventListener("click", save);
show();
