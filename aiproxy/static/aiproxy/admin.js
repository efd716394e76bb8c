"use strict";
// The menu of small screens. Without this script it is always open.
{
  const button = document.getElementById("menu-button");
  const menu = document.getElementById("menu");
  if (button && menu) {
    const small = window.matchMedia("(max-width: 63.99rem)");
    const show = (open) => {
      button.hidden = !small.matches;
      menu.hidden = small.matches && !open;
      button.setAttribute("aria-expanded", String(!menu.hidden));
    };
    button.addEventListener("click", () => show(menu.hidden));
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && small.matches) {
        show(false);
        button.focus();
      }
    });
    small.addEventListener("change", () => show(false));
    show(false);
  }
}
// Names for what Django's widgets show without one; each once it is there.
for (const part of document.querySelectorAll(".datetime input")) {
  part.ariaLabel = part.previousSibling.textContent.trim();
}
window.django?.jQuery(() => {
  for (const list of document.querySelectorAll("select.select2-hidden-accessible")) {
    list.nextElementSibling.querySelector(".select2-selection__rendered").ariaLabel = list.labels[0].textContent;
  }
});
window.addEventListener("load", () => {
  for (const icon of document.querySelectorAll(".search-label-icon")) {
    icon.role = "img";
  }
});
