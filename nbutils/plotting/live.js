// The common part of live figures. It stands before a figure's own module, in JupyterLab and on a page alike, so that a
// module needs nothing from elsewhere. `liveView` is called by its `render` with what anywidget gives it: `model`, which
// holds `data`, `theme`, `state` and `about`, and the element `el` to draw in.
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

// {dtype, shape, base64} -> a typed array with a `shape`; lists and objects are gone through.
const unpacked = (value) => {
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.base64 !== "string") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, unpacked(item)]));
  }
  const bytes = Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
  const kinds = { float32: Float32Array, float64: Float64Array, uint8: Uint8Array, int32: Int32Array };
  return Object.assign(new kinds[value.dtype](bytes.buffer), { shape: value.shape });
};

const liveView = ({ model, el }) => {
  const first = {}, accepts = {}, shows = {}; // by the name of a part of the state
  const state = {};
  const canvases = [], followers = [], endings = [];
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const stillness = matchMedia("(prefers-reduced-motion: reduce)");
  let frame = 0, spoken = 0, moving = 0, correcting = 0;

  const root = make("div", { className: "live-figure", role: "group" });
  root.setAttribute("aria-label", model.get("label"));
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's keys are not for what has the focus in here
  root.addEventListener("keydown", (event) => event.stopPropagation());
  const controls = make("div", { className: "live-controls" });
  const panels = make("div", { className: "live-panels" });
  const status = make("p", { className: "live-status", role: "status" });
  root.append(make("p", { className: "live-about", textContent: model.get("about") }), controls, panels, status);
  el.append(root);

  const dark = () => {
    const lab = document.body.dataset.jpThemeLight;
    return lab === undefined ? darkness.matches : lab === "false";
  };
  const colours = () => {
    const look = model.get("theme")[dark() ? "dark" : "light"];
    root.style.setProperty("color-scheme", dark() ? "dark" : "light");
    return look;
  };

  // All that moves is drawn once a frame, whatever asked for it.
  const draw = () => {
    frame = 0;
    try {
      followers.forEach((follow) => follow(state));
      canvases.forEach((canvas) => canvas.draw());
      status.classList.remove("live-fault");
    } catch (error) {
      clearTimeout(spoken); // what was to be said must not stand in place of the fault
      status.textContent = `This view cannot be drawn: ${error.message}`;
      status.classList.add("live-fault");
      console.error(error);
    }
  };
  const redraw = () => { frame ||= requestAnimationFrame(draw); };

  const listen = (target, kind, act, options) => {
    target.addEventListener(kind, act, options);
    endings.push(() => target.removeEventListener(kind, act, options));
  };
  listen(darkness, "change", redraw);
  const watched = new MutationObserver(redraw);
  watched.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  endings.push(() => watched.disconnect());

  // What is not allowed becomes the first view's.
  const apply = (changes) => {
    for (const [name, value] of Object.entries(changes ?? {})) {
      if (!Object.hasOwn(first, name)) continue; // an address may hold any name
      const found = accepts[name](value);
      state[name] = found === undefined ? first[name] : found;
      shows[name]?.(state[name]);
    }
    redraw();
  };
  const changed = () => Object.fromEntries(
    Object.entries(state).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(first[name])),
  );
  const set = (changes) => {
    apply(changes);
    model.set("state", changed());
    model.save_changes();
  };
  const spelled = (part) => JSON.stringify(Object.entries(part ?? {}).map(String).sort());
  const correct = () => { // what is not known, or not allowed, is not part of the state
    if (spelled(model.get("state")) !== spelled(changed())) set({});
  };
  const restore = () => {
    apply({ ...first, ...model.get("state") });
    clearTimeout(correcting);
    correcting = setTimeout(correct); // a widget sends nothing back while it is told something
  };
  model.on("change:state", restore);
  endings.push(() => model.off("change:state", restore));

  const part = (name, value, accept, show) => {
    first[name] = state[name] = value;
    accepts[name] = accept;
    if (show) shows[name] = show;
    const kept = model.get("state")?.[name];
    if (kept !== undefined) state[name] = accept(kept) ?? value;
    show?.(state[name]);
  };
  const within = (low, high) => (value) => {
    const number = value === "" || value === null || typeof value === "object" ? NaN : Number(value);
    return Number.isFinite(number) ? Math.min(Math.max(number, low), high) : undefined;
  };

  // A part of the state without a control: `accept` returns what it becomes, or undefined. From an address it gets text.
  const keep = (name, value, accept) => part(name, value, accept);

  // A control stays where it is under the hand, whatever stands beside it.
  const roomFor = (told, words) => { told.style.minWidth = `${Math.max(...words.map(({ length }) => length))}ch`; };
  const slider = (name, { label, value, min, max, step, text = String }) => {
    const input = make("input", { type: "range", min, max, step });
    const told = make("output");
    input.oninput = () => set({ [name]: Number(input.value) });
    controls.append(make("label", {}, make("span", { textContent: label }), input, told));
    roomFor(told, [min, value, max].map(text));
    part(name, value, within(min, max), (now) => {
      input.value = now;
      told.textContent = text(now);
      input.setAttribute("aria-valuetext", text(now));
    });
  };

  const choice = (name, { label, value, options }) => {
    const known = options.map(([option]) => option);
    const input = make("select", {}, ...options.map(([, words], i) => make("option", { value: i, textContent: words })));
    input.onchange = () => set({ [name]: known[input.value] });
    controls.append(make("label", {}, make("span", { textContent: label }), input));
    const accept = (wanted) => known.find((option) => String(option) === String(wanted));
    part(name, value, accept, (now) => { input.value = known.indexOf(now); });
  };

  const toggle = (name, { label, value }) => {
    const input = make("input", { type: "checkbox", onchange: () => set({ [name]: input.checked }) });
    controls.append(make("label", {}, input, make("span", { textContent: label })));
    const accept = (wanted) => ({ true: true, false: false })[String(wanted)];
    part(name, value, accept, (now) => { input.checked = now; });
  };

  const button = (label, act) => {
    controls.append(make("button", { type: "button", textContent: label, onclick: act }));
  };

  // `keys(event)`, `drag({dx, dy, x, y, first, trail})` and `click({x, y, touch})` return the state's changes to make; `hover` is
  // told where a mouse is, or null. All in the canvas's own units. The trail: all places of a fast hand since the last
  // call. `legible`: letters do not shrink with the canvas.
  const canvas = ({ label, width, height, draw: paint, drag, keys, click, hover, legible = false }) => {
    const element = make("canvas", { tabIndex: keys ? 0 : -1 });
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", label);
    element.style.cssText = `flex: ${width} 1 ${0.85 * width}px; max-width: ${width}px; aspect-ratio: ${width} / ${height}`;
    if (drag) element.classList.add("live-drag");
    panels.append(element);
    const context = element.getContext("2d");
    const size = () => element.clientWidth / width || 1;
    canvases.push({
      draw: () => {
        const scale = size() * devicePixelRatio;
        const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
        if (element.width !== across || element.height !== down) Object.assign(element, { width: across, height: down });
        context.setTransform(scale, 0, 0, scale, 0, 0);
        context.clearRect(0, 0, width, height);
        const letters = legible ? 12 * Math.min(Math.max(1 / size(), 1), 1.35) : 12;
        context.font = `${letters}px system-ui, 'DejaVu Sans', sans-serif`;
        paint(context, colours(), state);
      },
    });
    const resized = new ResizeObserver(redraw);
    resized.observe(element);
    endings.push(() => resized.disconnect());
    const at = (event) => ({ x: event.offsetX / size(), y: event.offsetY / size(), touch: event.pointerType === "touch" });
    if (drag) {
      let last = null, hand = null, before = {}; // where the hand was, which it is, and the state that it met
      const trailOf = (event, now) => {
        const { left, top } = element.getBoundingClientRect();
        const passed = (event.getCoalescedEvents?.() ?? []).slice(0, -1);
        return [...passed.map((one) => ({ x: (one.clientX - left) / size(), y: (one.clientY - top) / size() })), now];
      };
      element.onpointerdown = (event) => {
        if (event.button || last) return; // a second finger moves nothing
        element.setPointerCapture(event.pointerId);
        [last, hand, before] = [at(event), event.pointerId, { ...state }];
        set(drag({ ...last, dx: 0, dy: 0, first: true, trail: [last] }) ?? {});
      };
      element.onpointermove = (event) => {
        if (!last || event.pointerId !== hand) return;
        const now = at(event);
        const trail = trailOf(event, now);
        set(drag({ ...now, dx: now.x - last.x, dy: now.y - last.y, first: false, trail }) ?? {});
        last = now;
      };
      element.onpointerup = element.onlostpointercapture = (event) => { if (event.pointerId === hand) last = null; };
      element.onpointercancel = (event) => {
        if (!last || event.pointerId !== hand) return;
        last = null;
        set(before); // the finger was for the page, to scroll
      };
    }
    if (hover) {
      element.addEventListener("pointermove", (event) => { // beside that of `drag`
        if (event.pointerType === "touch") return;
        hover(at(event));
        redraw();
      });
      element.onpointerleave = () => {
        hover(null);
        redraw();
      };
    }
    if (click) {
      element.style.cursor = "pointer";
      element.onclick = (event) => {
        const changes = click(at(event));
        if (changes !== undefined) set(changes);
      };
    }
    if (keys) {
      element.onkeydown = (event) => {
        const changes = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys(event);
        if (changes === undefined) return;
        event.preventDefault();
        set(changes);
      };
    }
    return element;
  };

  // Words for everyone; a screen reader hears them when the hand rests.
  const say = (words) => {
    clearTimeout(spoken);
    status.setAttribute("aria-live", "off");
    status.textContent = words;
    spoken = setTimeout(() => {
      status.setAttribute("aria-live", "polite");
      status.textContent = "";
      status.textContent = words;
    }, 600);
  };

  // `step(share)` for shares of the way from 0 to 1; at once to the end for readers who want no motion.
  const animate = (step, milliseconds = 300) => {
    cancelAnimationFrame(moving);
    if (stillness.matches) return step(1);
    const start = performance.now();
    const next = (now) => {
      const share = Math.min(Math.max((now - start) / milliseconds, 0), 1);
      step(share * share * (3 - 2 * share));
      if (share < 1) moving = requestAnimationFrame(next);
    };
    moving = requestAnimationFrame(next);
  };

  const reset = () => set(first);
  const end = () => {
    cancelAnimationFrame(frame);
    cancelAnimationFrame(moving);
    clearTimeout(spoken);
    clearTimeout(correcting);
    endings.forEach((finish) => finish());
    root.remove();
  };
  const follow = (act) => followers.push(act);
  redraw();
  const view = {
    data: unpacked(model.get("data")), state, root,
    keep, roomFor, slider, choice, toggle, button, canvas, follow, say, set, animate, reset, redraw, end,
    idle: () => !frame, // nothing is left to draw, or to count
  };
  root.live = view;
  return view;
};
