(() => {
  const pages = JSON.parse(document.querySelector("script#search-index").textContent);
  const place = document.getElementById("search");
  const make = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text, ...more });
  const field = make("input", "", { type: "search", id: "query", placeholder: "Search all notebooks", autocomplete: "off" });
  field.setAttribute("aria-label", "Search all notebooks");
  const count = make("p", "", { className: "provenance" });
  count.setAttribute("role", "status");
  const list = make("ol", "");
  place.replaceChildren(field, count, list);

  const low = (text) => text.toLowerCase();
  const find = (words) => pages
    .map((page) => {
      const head = low(`${page.title} ${page.heading}`), text = low(page.text);
      const hits = words.map((word) => 5 * head.includes(word) + Math.min(4, text.split(word).length - 1));
      return { page, score: hits.every(Boolean) ? hits.reduce((sum, hit) => sum + hit) : 0 };
    })
    .filter(({ score }) => score)
    .sort((one, other) => other.score - one.score);
  const around = (text, word) => {
    const at = Math.max(0, low(text).indexOf(word) - 60);
    return (at ? "…" : "") + text.slice(at, at + 180) + (at + 180 < text.length ? "…" : "");
  };
  field.oninput = () => {
    const words = low(field.value).split(/\s+/).filter((word) => word.length > 1);
    const found = words.length ? find(words) : [];
    count.textContent = words.length ? `${found.length} section${found.length === 1 ? "" : "s"}` : "";
    list.replaceChildren(...found.slice(0, 20).map(({ page }) => {
      const item = make("li", "");
      const name = page.heading === page.title ? page.title : `${page.title} › ${page.heading}`;
      item.append(make("a", name, { href: page.url }), make("p", around(page.text, words[0])));
      return item;
    }));
  };
  if (location.hash === "#search") field.focus();
})();
