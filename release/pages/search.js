"use strict";
// Search in the answers. Without this script all of them are listed.
const cards = [...document.querySelectorAll("#answers-list > li")];
const texts = cards.map((card) => card.textContent.toLowerCase());
const form = document.getElementById("search");
const wanted = document.getElementById("wanted");
const count = document.getElementById("count");
const choices = form ? [...form.querySelectorAll("select")] : [];
const MANY = 300; // cards, of which a search waits until the reader stops typing
let waits;

function filter() {
  const text = wanted.value.toLowerCase();
  const chosen = choices.filter((choice) => choice.selectedIndex > 0); // The first option is all of them.
  let shown = 0;
  cards.forEach((card, at) => {
    card.hidden = !(texts[at].includes(text) && chosen.every((choice) => card.dataset[choice.id] === choice.value));
    shown += card.hidden ? 0 : 1;
  });
  count.textContent = `${shown} of ${cards.length} shown`;
}

if (form) {
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(waits);
    if (cards.length > MANY) {
      waits = setTimeout(filter, 200);
    } else {
      filter();
    }
  });
  filter();
}
