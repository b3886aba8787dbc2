"use strict";
(() => {
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const entries = [...document.querySelectorAll(".entry")].map((entry) => [entry, entry.textContent.toLowerCase()]);
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [entry, text] of entries) {
      const fits = words.every((word) => text.includes(word));
      entry.hidden = !fits;
      count += fits;
    }
    found.textContent = words.length ? `${count} of ${entries.length}` : "";
  });
})();
