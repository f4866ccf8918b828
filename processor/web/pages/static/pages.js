// Comforts only: every page works without any of it.
(() => {
  "use strict";

  const ready = (root) => {
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
    for (const box of root.querySelectorAll("[data-select-all]")) box.closest("[hidden]")?.removeAttribute("hidden");
    for (const one of root.querySelectorAll(".scroll")) { one.classList.remove("overflows"); measured.observe(one); }
  };

  // What is wider than its place says so.
  const measured = new ResizeObserver((entries) => {
    for (const { target } of entries) target.classList.toggle("overflows", target.scrollWidth > target.clientWidth + 1);
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // A form is sent once, however often its button is clicked.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || event.defaultPrevented) return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "1";
  });
  window.addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  });

  // Enter in a search within a form searches, and does not send the form.
  document.addEventListener("keydown", (event) => {
    const name = event.key === "Enter" && !event.isComposing && event.target.dataset?.enter;
    const button = name && document.getElementById(name);
    if (button) { event.preventDefault(); button.click(); }
  });

  // Filters apply as soon as one is chosen.
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-apply]");
    if (form && event.target.matches("select, input[type=date], input[type=checkbox]")) form.requestSubmit();
    const all = event.target.closest("[data-select-all]");
    if (all) {
      for (const box of document.querySelectorAll(`input[type=checkbox][name="${all.dataset.selectAll}"]`)) {
        box.checked = all.checked;
      }
    }
  });

  // What updates by itself rests while nobody sees it.
  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden && event.target?.matches?.("[data-live]")) event.preventDefault();
  });

  document.addEventListener("htmx:after:swap", (event) => ready(event.target?.querySelectorAll ? event.target : document));
  ready(document);
})();
