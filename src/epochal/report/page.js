"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const box = document.getElementById("tip");
  let hot = null;

  // Thin lines get a wide, invisible edge, so that they can be pointed at.
  for (const path of document.querySelectorAll(".tip > path")) {
    if (getComputedStyle(path).fill !== "none") continue;
    const edge = path.cloneNode(false);
    edge.removeAttribute("id");
    edge.removeAttribute("style");
    edge.setAttribute("class", "edge");
    path.after(edge);
  }

  function mark(run, on) {
    if (!run) return;
    for (const drawing of document.querySelectorAll("svg.drawing")) {
      const own = [...drawing.querySelectorAll(".tip")].filter((t) => t.dataset.run === run);
      drawing.classList.toggle("dim", on && own.length > 0);
      own.forEach((t) => t.classList.toggle("hot", on));
    }
    for (const row of document.querySelectorAll("tr[data-run]")) {
      row.classList.toggle("hot", on && row.dataset.run === run);
    }
  }

  function leave() {
    if (hot) {
      mark(hot.dataset.run, false);
      hot.classList.remove("here");
    }
    hot = null;
    box.hidden = true;
  }

  // Mark what is at `at`, and say what it is beside the point (x, y).
  function say(at, x, y) {
    if (at !== hot) {
      leave();
      hot = at;
      if (at) mark(at.dataset.run, true);
    }
    if (!at || !at.dataset.tip) return;
    box.textContent = at.dataset.tip;
    box.hidden = false;
    const width = document.documentElement.clientWidth;
    const left = Math.min(x + 14, width - box.offsetWidth - 8);
    const below = y + 18 + box.offsetHeight < window.innerHeight;
    box.style.left = Math.max(8, left) + "px";
    box.style.top = (below ? y + 18 : y - box.offsetHeight - 12) + "px";
  }

  function show(event) {
    const at = event.target.closest ? event.target.closest(".tip, tr[data-run]") : null;
    say(at, event.clientX, event.clientY);
  }

  // Without a pointer: a drawing has the focus, and the arrow keys go through what is in it.
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  function walk(event) {
    const drawing = event.currentTarget;
    if (event.key === "Escape") leave();
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    const told = new Set();
    const tips = [...drawing.querySelectorAll(".tip")].filter(
      (t) => t === hot || (!told.has(t.dataset.tip) && told.add(t.dataset.tip)),
    );
    if (!tips.length) return;
    event.preventDefault();
    const now = tips.indexOf(hot);
    const next = now < 0 && steps[event.key] < 0 ? tips.length - 1 : now + steps[event.key];
    const at = tips[(next + tips.length) % tips.length];
    const place = at.getBoundingClientRect();
    say(at, place.x + place.width / 2, place.y + place.height / 2);
    at.classList.add("here");
  }
  for (const drawing of document.querySelectorAll("svg.drawing")) {
    drawing.tabIndex = 0;
    drawing.addEventListener("keydown", walk);
    drawing.addEventListener("blur", leave);
  }

  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("pointerleave", leave);
  document.addEventListener("pointercancel", leave); // a finger that began to scroll

  // A drawing as a file of its own: the page's colours become plain ones.
  function save(figure) {
    const copy = figure.querySelector("svg.drawing").cloneNode(true);
    copy.querySelectorAll(".edge").forEach((edge) => edge.remove());
    copy.removeAttribute("tabindex");
    const [, , width, height] = copy.getAttribute("viewBox").split(" ");
    copy.setAttribute("xmlns", SVG);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    copy.setAttribute("font-family", "system-ui, Helvetica, Arial, sans-serif");
    const colours = getComputedStyle(document.documentElement);
    const paper = document.createElementNS(SVG, "rect");
    paper.setAttribute("width", "100%");
    paper.setAttribute("height", "100%");
    paper.setAttribute("fill", colours.getPropertyValue("--paper").trim());
    copy.prepend(paper);
    const text = new XMLSerializer()
      .serializeToString(copy)
      .replace(/var\((--[\w-]+)\)/g, (_, name) => colours.getPropertyValue(name).trim());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    link.download = figure.dataset.name + ".svg";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.save !== undefined) save(button.closest("figure"));
    if (button.dataset.copy !== undefined) {
      const pre = button.parentElement.querySelector("pre");
      // Selected first, so that it can be copied by hand where the page may not.
      getSelection().selectAllChildren(pre);
      const done = () => {
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      };
      if (navigator.clipboard) navigator.clipboard.writeText(pre.textContent).then(done, () => {});
    }
  });
  document.documentElement.classList.add("live");
})();
