
// On a page: the data stand beside each figure, the address holds the state of the one that was moved last.
const mountLive = (script, { render }) => {
  document.querySelectorAll(".live[data-script]").forEach((el) => {
    if (el.dataset.script !== script) return;
    const parts = JSON.parse(el.nextElementSibling.textContent);
    const id = el.closest("figure").id;
    const picture = el.parentElement.querySelector(".live-static");
    const handlers = new Set();
    const said = () => {
      const [name, ...rest] = location.hash.slice(1).split("?");
      const asked = new URLSearchParams(rest.join("?"));
      return name === id ? Object.fromEntries(asked) : null;
    };
    let waiting = 0;
    const model = {
      get: (name) => parts[name],
      set: (name, value) => { parts[name] = value; },
      save_changes: () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => { // browsers allow so many changes of the address a second
          const words = new URLSearchParams(Object.entries(parts.state).map(([name, value]) => [name, String(value)]));
          history.replaceState(null, "", `#${id}${[...words].length ? `?${words}` : ""}`);
        }, 300);
      },
      on: (_, handler) => handlers.add(handler),
      off: (_, handler) => handlers.delete(handler),
    };
    parts.state = said() ?? {};
    try {
      render({ model, el });
      picture.hidden = true;
      if (location.hash.startsWith(`#${id}?`)) el.closest("figure").scrollIntoView();
    } catch (error) {
      el.replaceChildren();
      console.error(error);
    }
    addEventListener("hashchange", () => {
      clearTimeout(waiting); // the address is the reader's now
      const state = said();
      if (!state) return;
      parts.state = state;
      handlers.forEach((handler) => handler());
      el.closest("figure").scrollIntoView();
    });
  });
};
