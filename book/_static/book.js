/* The pages move: figures enlarge, wide things scroll by key and say so, arrow keys turn pages. */
(() => {
  "use strict";

  // The letters are made ready while the page is still being read, so that no line jumps.
  for (const style of ["", "italic ", "600 "]) document.fonts.load(`${style}1em "Book Serif"`);

  /** Open a dialog with a figure's picture; a click changes between fitting and full size. */
  function enlarge(image, caption) {
    const dialog = document.createElement("dialog");
    dialog.className = "enlarged";
    dialog.setAttribute("aria-label", "Enlarged figure");
    const close = document.createElement("button");
    close.type = "button";
    close.className = "enlarged-close";
    close.textContent = "Close";
    const view = document.createElement("div");
    view.className = "enlarged-view";
    view.tabIndex = 0;
    view.setAttribute("role", "group");
    view.setAttribute("aria-label", "The picture; Enter changes its size");
    const picture = image.cloneNode();
    picture.removeAttribute("style");
    picture.removeAttribute("width");
    picture.removeAttribute("height");
    view.append(picture);
    const change = () => view.classList.toggle("full");
    view.addEventListener("click", change);
    view.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        change();
      }
    });
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    dialog.append(close, view);
    if (caption) {
      const text = document.createElement("p");
      text.className = "enlarged-caption";
      text.append(...[...caption.childNodes].map((node) => node.cloneNode(true)));
      for (const link of text.querySelectorAll(".headerlink")) link.remove();
      dialog.append(text);
    }
    document.body.append(dialog);
    dialog.showModal();
  }

  function figures() {
    for (const link of document.querySelectorAll(".bd-article figure > a.image-reference")) {
      const image = link.querySelector("img");
      if (!image) continue;
      link.title = "Enlarge";
      link.setAttribute("aria-haspopup", "dialog");
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        enlarge(image, link.parentElement.querySelector("figcaption p"));
      });
    }
  }

  /** What is wider than its box can be reached by key, and only that. */
  function scrollers() {
    const boxes = ".bd-article div.math, .bd-article .pst-scrollable-table-container, "
      + ".bd-article pre, .bd-article .cell_output";
    const wide = new Map();
    for (const box of document.querySelectorAll(boxes))
      wide.set(box, box.scrollWidth > box.clientWidth + 1);
    for (const [box, is] of wide) {
      box.classList.toggle("is-wide", is);
      if (box.matches("pre")) {
        if (is) box.tabIndex = 0;
        else box.removeAttribute("tabindex");
      } else if (is) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        const kind = box.matches(".math") ? "Formula" : box.matches(".cell_output") ? "Output" : "Table";
        box.setAttribute("aria-label", `${kind}, scrolls sideways`);
      } else if (box.getAttribute("aria-label")?.endsWith("scrolls sideways")) {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  }

  /** Arrow keys turn pages, where nothing else wants them. */
  function turn(event) {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey)
      return;
    const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const free = document.activeElement?.matches("body, main, a, h1, h2, h3");
    if (!way || !free || document.activeElement.closest("dialog, .live")) return;
    const link = document.querySelector(`link[rel=${way}]`);
    if (link) location.href = link.href;
  }

  /** Print in the light scheme, with all that is folded open. */
  function printing() {
    const root = document.documentElement;
    let theme = "", opened = [];
    addEventListener("beforeprint", () => {
      theme = root.dataset.theme;
      root.dataset.theme = "light";
      opened = [...document.querySelectorAll("details:not([open])")];
      for (const details of opened) details.open = true;
    });
    addEventListener("afterprint", () => {
      root.dataset.theme = theme;
      for (const details of opened) details.open = false;
    });
  }

  /** Buttons of the theme without a name get one; a name says what is seen. */
  function names() {
    for (const button of document.querySelectorAll("button[title]:not([aria-label])"))
      if (!button.textContent.trim()) button.setAttribute("aria-label", button.title);
    for (const box of document.querySelectorAll(".docstring input"))
      box.setAttribute("aria-label", "Show the whole docstring");
  }

  document.addEventListener("DOMContentLoaded", () => {
    names();
    figures();
    printing();
    document.addEventListener("keydown", turn);
  });
  addEventListener("load", () => {
    const formulas = window.MathJax?.startup?.promise;
    (formulas || Promise.resolve()).then(() => {
      scrollers();
      let asked = 0;
      addEventListener("resize", () => {
        cancelAnimationFrame(asked);
        asked = requestAnimationFrame(scrollers);
      });
    });
  });
})();
