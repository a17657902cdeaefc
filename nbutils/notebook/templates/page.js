(() => {
  const make = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text, ...more });

  // One switch for all code, and a button that copies each piece.
  const folds = [...document.querySelectorAll("main details.code")];
  if (folds.length) {
    const all = make("button", "Show all code", { type: "button" });
    all.setAttribute("aria-pressed", "false");
    all.onclick = () => {
      const open = all.getAttribute("aria-pressed") === "false";
      all.setAttribute("aria-pressed", String(open));
      all.textContent = open ? "Hide all code" : "Show all code";
      folds.forEach((fold) => { fold.open = open; });
    };
    document.querySelector("header nav").append(all);
  }
  document.querySelectorAll("details.code").forEach((fold) => {
    const text = [...fold.querySelectorAll("pre")].map((pre) => pre.textContent.trim()).join("\n\n");
    const copy = make("button", "Copy", { type: "button", className: "copy" });
    copy.onclick = async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(fold.querySelector("pre").parentElement);
        copy.textContent = "Selected";
      }
    };
    fold.querySelector("summary").after(copy);
  });

  // A picture to keep, and one in full for narrow windows.
  document.querySelectorAll("main figure").forEach((figure) => {
    const picture = figure.querySelector("picture");
    const tools = figure.querySelector(".tools");
    if (!picture || !tools) return;
    const image = picture.querySelector("img");
    const keep = make("a", "Picture", { download: figure.id || "figure" });
    keep.onclick = () => { keep.href = image.currentSrc; };
    keep.href = "#" + figure.id;
    const enlarge = make("button", "Enlarge", { type: "button" });
    enlarge.onclick = () => {
      const box = make("dialog", "");
      const close = make("button", "Close", { type: "button" });
      close.onclick = () => box.close();
      box.onclose = () => box.remove();
      box.setAttribute("aria-label", figure.querySelector(".number")?.textContent ?? "Figure");
      const pane = make("div", "", { tabIndex: 0 });
      pane.append(picture.cloneNode(true));
      box.append(close, pane);
      document.body.append(box);
      box.showModal();
    };
    tools.append(keep, enlarge);
  });

  // The contents are folded where they stand above the text, and say where the reader is where they stand beside it.
  if (matchMedia("(max-width: 72rem)").matches) {
    document.querySelectorAll("#contents details").forEach((part) => { part.open = false; });
  }
  const places = [...document.querySelectorAll("#contents a[href^='#']")]
    .map((entry) => [entry, document.getElementById(decodeURIComponent(entry.hash.slice(1)))])
    .filter(([, heading]) => heading);
  const mark = () => {
    const passed = places.filter(([, heading]) => heading.getBoundingClientRect().top < innerHeight / 3);
    places.forEach((place) => {
      if (place === passed.at(-1)) place[0].setAttribute("aria-current", "true");
      else place[0].removeAttribute("aria-current");
    });
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
