"use strict";
// Search in the answers. Without this script all of them are listed.
const cards = [...document.querySelectorAll("#answers-list > li")];
const texts = cards.map((card) => card.textContent.toLowerCase());
const form = document.getElementById("search");
const wanted = document.getElementById("wanted");
const right = document.getElementById("right");
const count = document.getElementById("count");

function filter() {
  const text = wanted.value.toLowerCase();
  let shown = 0;
  cards.forEach((card, at) => {
    card.hidden = !(texts[at].includes(text) && (right.value === "" || card.dataset.right === right.value));
    shown += card.hidden ? 0 : 1;
  });
  count.textContent = `${shown} of ${cards.length} shown`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  filter();
}
