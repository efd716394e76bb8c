// What every page of the site has: the switch between light and dark, and buttons that copy. Without this script the
// theme is the system's, and there are no such buttons.

const root = document.documentElement;

/** Keeps the choice for a year: pages come with it, so that none flashes in the other colours. */
function choose(theme) {
  const age = theme === "auto" ? 0 : 365 * 24 * 3600;
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `theme=${theme}; Path=/; Max-Age=${age}; SameSite=Lax${secure}`;
  try {
    localStorage.setItem("theme", theme); // where the back-office looks
  } catch {
    // no storage: that page follows the system
  }
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
}

for (const button of document.querySelectorAll("[data-theme-switch]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const isDark = getComputedStyle(root).colorScheme === "dark" ||
      (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    choose(isDark ? "light" : "dark");
  });
}

for (const select of document.querySelectorAll("[data-theme-choice]")) {
  select.disabled = false;
  select.value = root.dataset.theme ?? "auto";
  select.addEventListener("change", () => choose(select.value));
}

async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    // No clipboard without TLS: what is marked can be copied by hand.
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const text = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (!(await copy(document.getElementById(button.dataset.copy)))) return;
    button.textContent = button.dataset.done;
    setTimeout(() => (button.textContent = text), 2000);
  });
}

// On small screens the sections are a line that scrolls: begin where one is.
document.querySelector(".side [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
