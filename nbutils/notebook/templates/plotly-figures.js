(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = JSON.parse(document.getElementById("dark-theme").textContent);
  const draw = (box) => {
    let text = document.getElementById(box.dataset.figure).textContent;
    if (dark.matches) text = text.replace(/#[0-9a-f]{6}\b/gi, (c) => theme.accents[c.toLowerCase()] ?? c);
    const { data, layout } = JSON.parse(text);
    if (dark.matches) layout.template = { ...layout.template, layout: theme.layout };
    Plotly.react(box, data, layout, { responsive: true, displaylogo: false });
  };
  const drawAll = () => document.querySelectorAll(".plotly-figure").forEach(draw);
  drawAll();
  dark.addEventListener("change", drawAll);
})();
