"use strict";

// What every page does: names are copied with one click, and a link opens what it leads to.

const data = JSON.parse(document.getElementById("data").textContent);

for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;

async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return;
    } catch { /* not allowed here: the old way */ }
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function offerCopy(event) {
  const row = event.target.closest?.(".tensor");
  if (!row || row.querySelector(":scope > .copy")) return;
  const name = row.querySelector("code.name").textContent;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.dataset.copy = name;
  button.textContent = "copy";
  button.setAttribute("aria-label", `Copy the name ${name}`);
  row.append(button);
}

document.addEventListener("pointerover", offerCopy);
document.addEventListener("focusin", offerCopy);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  await copyText(button.dataset.copy);
  button.textContent = "copied";
  button.classList.add("done");
  setTimeout(() => {
    button.textContent = "copy";
    button.classList.remove("done");
  }, 1500);
});

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let at = target; at; at = at.parentElement) {
    if (at.matches("details")) at.open = true;
    at.hidden = false;
  }
  if (!target.matches("details")) return;
  target.scrollIntoView({ block: "start" });
  target.querySelector("summary").focus({ preventScroll: true });
}

window.addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link && link.getAttribute("href") === location.hash) openTarget(); // the hash does not change a second time
});
if (location.hash) openTarget();
