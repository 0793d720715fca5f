/* The first page: draw a digit. Needs network.js, drawing.js. */
(() => {
  "use strict";

  CNN.live("draw-a-digit", "Draw a digit", (body) => {
    let maps, seen;
    CNN.drawing(body, (now, net) => {
      seen = now;
      maps ||= new CNN.Maps(panel, net, ({ kind }) => kind === "ReLU");
      show();
    });
    const more = CNN.button("What the layers see", () => {
      panel.hidden = !panel.hidden;
      more.setAttribute("aria-expanded", `${!panel.hidden}`);
      show();
    });
    more.classList.add("live-more");
    more.setAttribute("aria-expanded", "false");
    body.append(more);
    const panel = CNN.element("div", { class: "live-panel", hidden: "" }, body);

    function show() {
      if (!panel.hidden && seen) maps.show(seen.outputs);
    }
  });
})();
