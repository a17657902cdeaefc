// Figures in JupyterLab: dark ones in a dark theme, with their description, which Lab's own renderer leaves out, and
// with the name that references to them lead to.
// A stored output holds the light picture alone. Its SHA-256 stands in the manifest of the notebook's figures, beside
// the name of the dark file. A picture that is linked, as on the cards of the index, is known by its file's name.
// Nothing but the page is changed: the notebook stays as it is.
(() => {
  const PICTURES = ".jp-RenderedImage img, .jp-RenderedHTMLCommon img";
  const lights = new WeakMap(); // image -> what it showed first
  const manifests = new Map(); // folder -> SHA-256 and name of the light file -> entry
  const base = JSON.parse(document.getElementById("jupyter-config-data").textContent).baseUrl;
  const assets = `${base}files/large-assets`;

  async function manifest(folder) {
    const answer = await fetch(`${folder}/manifest.json`, { cache: "no-store" });
    const figures = answer.ok ? Object.entries(await answer.json()) : [];
    const entries = figures.map(([name, entry]) => ({ ...entry, name }));
    return new Map(entries.flatMap((entry) => [[entry.light.sha256, entry], [entry.light.file, entry]]));
  }

  async function entryOf(folder, key) {
    for (const fresh of [false, true]) {
      if (fresh || !manifests.has(folder)) manifests.set(folder, manifest(folder)); // a run adds figures
      const found = (await manifests.get(folder)).get(key);
      if (found) return found;
    }
  }

  async function placeOf(light, image, app) {
    if (!light.startsWith("data:")) {
      const [, folder, file] = new URL(light).pathname.match(/^(.*)\/([^/]+)$/) ?? [];
      return folder?.startsWith(`${assets}/`) && !file.endsWith(".dark.png") ? [folder, decodeURIComponent(file)] : [];
    }
    const panel = [...app.shell.widgets("main")].find((widget) => widget.node.contains(image));
    if (!light.startsWith("data:image/png;base64,") || !panel?.context || !crypto.subtle) return []; // http to a host
    const bytes = Uint8Array.from(atob(light.split(",")[1]), (letter) => letter.charCodeAt(0));
    const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))]
      .map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const stem = panel.context.path.split("/").pop().replace(/\.ipynb$/, "");
    return [`${assets}/${encodeURIComponent(stem)}`, digest];
  }

  async function dress(image, app) {
    const light = lights.get(image) ?? image.src;
    const [folder, key] = await placeOf(light, image, app);
    const entry = folder && (await entryOf(folder, key));
    if (!entry) return;
    lights.set(image, light);
    const dark = document.body.dataset.jpThemeLight === "false" && entry.dark;
    image.alt ||= entry.alt;
    if (light.startsWith("data:")) image.id = `figure-${entry.name}`;
    image.onerror = () => { image.onerror = null; image.src = light; };
    const shown = dark ? `${folder}/${entry.dark.file}?${entry.dark.sha256}` : light;
    if (image.getAttribute("src") !== shown) image.src = shown;
  }

  const plugin = {
    id: "nbutils:pictures",
    autoStart: true,
    activate(app) {
      const all = (images) => images.forEach((image) => dress(image, app).catch(console.error));
      new MutationObserver((changes) => {
        const themed = changes.some((change) => change.type === "attributes");
        const added = changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.querySelectorAll);
        const found = added.flatMap((node) => [...node.querySelectorAll(PICTURES), ...(node.matches(PICTURES) ? [node] : [])]);
        all(themed ? document.querySelectorAll(PICTURES) : new Set(found));
      }).observe(document.body, { childList: true, subtree: true, attributeFilter: ["data-jp-theme-light"] });
      // Of a linked picture Lab finds the address after it has put it on the page.
      document.addEventListener("load", ({ target }) => { if (target.matches?.(PICTURES)) all([target]); }, true);
      all(document.querySelectorAll(PICTURES));
    },
  };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB.nbutils = { init() {}, get: async () => () => plugin };
})();
