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
    if (hot) mark(hot.dataset.run, false);
    hot = null;
    box.hidden = true;
  }

  function show(event) {
    const at = event.target.closest ? event.target.closest(".tip, tr[data-run]") : null;
    if (at !== hot) {
      leave();
      hot = at;
      if (at) mark(at.dataset.run, true);
    }
    if (!at || !at.dataset.tip) return;
    box.textContent = at.dataset.tip;
    box.hidden = false;
    const width = document.documentElement.clientWidth;
    const left = Math.min(event.clientX + 14, width - box.offsetWidth - 8);
    const below = event.clientY + 18 + box.offsetHeight < window.innerHeight;
    box.style.left = Math.max(8, left) + "px";
    box.style.top = (below ? event.clientY + 18 : event.clientY - box.offsetHeight - 12) + "px";
  }

  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("pointerleave", leave);
  document.addEventListener("pointercancel", leave); // a finger that began to scroll

  // A drawing as a file of its own: the page's colours become plain ones.
  function save(figure) {
    const seen = [...figure.querySelectorAll("svg.drawing")].find((s) => s.getClientRects().length);
    const copy = seen.cloneNode(true);
    copy.querySelectorAll(".edge").forEach((edge) => edge.remove());
    const [, , width, height] = seen.getAttribute("viewBox").split(" ");
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
      .replace(/var\((--[a-z]+)\)/g, (_, name) => colours.getPropertyValue(name).trim());
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
