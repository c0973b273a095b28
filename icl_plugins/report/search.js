"use strict";
const box = document.getElementById("query");
if (box) {
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const shots = Array.from(document.querySelectorAll(".shot"), (shot) => [
    shot,
    plain(Array.from(shot.querySelectorAll(".text"), (part) => part.textContent).join("\n")),
  ]);
  const hits = document.getElementById("hits");
  box.addEventListener("input", () => {
    const words = plain(box.value).split(/\s+/);
    let found = 0;
    for (const [shot, text] of shots) {
      shot.hidden = !words.every((word) => text.includes(word));
      found += !shot.hidden;
    }
    hits.textContent = `${found} of ${shots.length} demonstrations`;
  });
  document.getElementById("search").hidden = false;
}
