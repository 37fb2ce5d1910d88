// The keyboard: / goes to the search field, j and k through the results. Everything works without.
"use strict";
document.addEventListener("keydown", (event) => {
  const field = document.getElementById("q");
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "/" && !typing && field) {
    event.preventDefault();
    field.select();
  } else if ((event.key === "j" || event.key === "k") && !typing) {
    const links = [...document.querySelectorAll(".hit h2 a")];
    const at = links.indexOf(document.activeElement);
    const to = event.key === "j" ? at + 1 : Math.max(0, at - 1);
    if (links[to]) links[to].focus();
  }
});
const here = document.querySelector(".here");
if (here) {
  here.scrollIntoView({ block: "center" });
  here.focus({ preventScroll: true });
}
