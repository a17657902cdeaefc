(async () => {
  const library = atob(document.querySelector("script#plotly").textContent);
  if (!self.DecompressionStream) return; // an older browser: the pictures stay
  const packed = new Blob([Uint8Array.from(library, (byte) => byte.charCodeAt(0))]).stream();
  const text = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(Object.assign(document.createElement("script"), { textContent: text }));

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = JSON.parse(document.querySelector("script#dark-theme").textContent);
  // Theme colours change with the scheme; the colours of single points are data and stay.
  const recolour = (node) => {
    if (typeof node === "string") return theme.colours[node.toLowerCase()] ?? node;
    if (Array.isArray(node)) return node.map(recolour);
    if (node === null || typeof node !== "object") return node;
    const isData = (key, value) => key === "marker" && Array.isArray(value?.color);
    return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, isData(k, v) ? v : recolour(v)]));
  };
  const draw = (box) => {
    box.hidden = false; // in place of its picture
    const figure = JSON.parse(box.nextElementSibling.textContent);
    const { data, layout } = dark.matches ? recolour(figure) : figure;
    if (dark.matches) layout.template = { ...layout.template, layout: theme.layout };
    layout.width = Math.min(layout.width ?? box.clientWidth, box.clientWidth); // a narrow page shows all of it
    Plotly.react(box, data, layout, { responsive: true, displaylogo: false });
  };
  const drawAll = () => document.querySelectorAll(".plotly-figure").forEach(draw);
  drawAll();
  dark.addEventListener("change", drawAll);
  addEventListener("resize", drawAll);
})();
