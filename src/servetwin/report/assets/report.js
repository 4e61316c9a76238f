"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // A colour is written "--name", the style sheet's name for it, so that a figure follows the reader's theme.
  // Long arrays are data and hold none.
  function themed(value, style) {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.length > 8 ? value : value.map((item) => themed(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, style)]));
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    for (const figure of figures) {
      const { data, layout } = themed(figure, style);
      Plotly.react(figure.name, data, layout, { responsive: true, displayModeBar: false });
    }
  }

  draw();
  dark.addEventListener("change", draw);
})();
