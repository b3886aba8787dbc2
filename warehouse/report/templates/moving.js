(() => {
  const places = [...document.querySelectorAll(".moving")];
  const draw = (place) => {
    const color = (name) => `var(${name})`;
    const axis = { labelColor: color("--soft"), titleColor: color("--soft"), gridColor: color("--line"), domainColor: color("--line"), tickColor: color("--line") };
    const font = getComputedStyle(document.body).fontFamily;
    const spec = JSON.parse(place.querySelector("script").textContent);
    const width = Math.max(place.clientWidth - 62, 160);
    for (const view of spec.vconcat || [spec]) view.width = width;
    spec.background = null;
    spec.config = {
      font, axis, view: { stroke: null }, autosize: { type: "pad" }, legend: { labelColor: color("--ink"), orient: "bottom", columns: Math.max(1, Math.floor(width / 130)) },
      area: { color: color("--a") }, line: { color: color("--a") }, bar: { color: color("--a") }, range: { category: ["--a", "--c", "--d", "--e", "--bad", "--g", "--h", "--i"].map(color) },
    };
    const canvas = place.querySelector("figure");
    // Vega replaces the figure's label by the description of what it draws.
    spec.description = canvas.getAttribute("aria-label");
    const controls = place.querySelector(".controls");
    canvas.replaceChildren();
    controls.replaceChildren();
    const runtime = vega.parse(vegaLite.compile(spec).spec, null, { ast: true });
    new vega.View(runtime, { expr: expressionInterpreter, renderer: "svg", container: canvas, bind: controls, hover: true }).runAsync();
  };
  const all = () => places.forEach(draw);
  all();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; all(); } });
})();
