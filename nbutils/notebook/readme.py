"""The README's results table: one row per experiment, written from the notebooks' metadata and `results.json`.

A notebook says in `metadata.nbutils.readme` what its row shows:

    {"question": "Does ablating one dimension delete only red?",
     "rows": [{"label": "ablated r",
               "format": "{ablated_r_mean:.3f} ± {ablated_r_std:.3f}",
               "source": ".931 ± .034"}]}

`format` is a template over the metrics recorded in `results.json`; `source` is what the source system
reports, where it reports that number. An entry with `"record": "real"` reads `results.real.json`, the recorded
run on real data; with `"full"`, `results.full.json`, that of the full profile on embedded data.
`python -m nbutils.notebook.readme` rewrites the table in place.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from nbutils import atomic, claims, layout
from nbutils.notebook.document import opening, read

BEGIN = "<!-- results: written by `make update`, not by hand -->"
END = "<!-- end of results -->"
HEADINGS = ("notebook", "question", "found", "source", "claims")
NOTHING = "–"
RESULTS = {"embedded": "results.json", **{which: f"results.{which}.json" for which in layout.RECORDED}}


def table(root: Path | None = None) -> str:
    """Return the results table of all numbered notebooks as Markdown, failures and missing runs included.

    Args:
        root: the project folder; `layout.root()` when not given.

    Raises:
        ValueError: a notebook has no title or no `readme` metadata, or a template names a metric that is not
            recorded; the message names the notebook and what there is.
    """
    root = root or layout.root()
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    for notebook in sorted((root / "notebooks").glob("[0-9][0-9]-*.ipynb")):
        folder = root / "large-assets" / notebook.stem
        paths = {kind: folder / name for kind, name in RESULTS.items()}
        rows.append(_row(notebook, {kind: claims.load(path) for kind, path in paths.items() if path.exists()}))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def refreshed(text: str, table: str) -> str:
    """Return the README's text with what stands between its two markers replaced by `table`.

    Raises:
        ValueError: the markers are missing, repeated or in the wrong order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the README needs one line {BEGIN!r} and below it one line {END!r}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main() -> None:
    """Rewrite the results table in the project's README and say whether it changed."""
    path = layout.root() / "README.md"
    old = path.read_text(encoding="utf-8")
    try:
        new = refreshed(old, table())
    except ValueError as error:
        sys.exit(f"README.md: {error}")
    if new != old:
        atomic.write(path, new)
    print(f"README.md: results table {'is current' if new == old else 'rewritten'}")


def _row(notebook: Path, results: dict[str, claims.Results]) -> tuple[str, ...]:
    content = read(notebook)
    title, _, spec = introduction(notebook, content)
    found, source = [], []
    for entry in spec["rows"]:
        if one := results.get(entry.get("record", "embedded")):
            found.append(f"{entry['label']} {filled(entry['format'], one.metrics, notebook.name)}")
            source.append(entry.get("source") or NOTHING)
    others = {"full": "in the full profile", "real": "on real data"}
    recorded = "".join(f"; {text} {_verdict(results[which])}" for which, text in others.items() if which in results)
    row = (
        f"[{title}](notebooks/{notebook.name})",
        spec["question"],
        "<br>".join(found) if results else "not run",
        "<br>".join(source) or NOTHING,
        _verdict(results["embedded"]) + recorded if "embedded" in results else NOTHING,
    )
    return tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row)


def introduction(notebook: Path, content: NotebookNode) -> tuple[str, str, dict[str, Any]]:
    """Return a notebook's title, its verdict, and its row of the table, checked.

    Raises:
        ValueError: no title, or no `readme` metadata of the form above; the message names the notebook.
    """
    own = content.metadata.get("nbutils", {})
    spec = own.get("readme") if isinstance(own, dict) else None
    form = {"question": str, "rows": list}
    if not isinstance(spec, dict) or not all(isinstance(spec.get(key), kind) for key, kind in form.items()):
        raise ValueError(f"{notebook.name} needs metadata.nbutils.readme with 'question' and 'rows', got {spec}")
    for row in spec["rows"]:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("label", "format")):
            raise ValueError(f"{notebook.name}: a row of metadata.nbutils.readme has 'label' and 'format', got {row}")
        if row.get("record", "embedded") not in RESULTS:
            raise ValueError(f"{notebook.name}: 'record' is one of {', '.join(RESULTS)}, got {row['record']!r}")
    title, verdict = opening(content)
    if not title:
        raise ValueError(f"{notebook.name} has no heading '# NN · title' in a Markdown cell")
    return title, verdict, spec


def filled(template: str, metrics: dict[str, float | int | None], name: str) -> str:
    """Return a template with recorded metrics in it.

    Raises:
        ValueError: it names a metric that is not recorded; the message begins with `name` and lists those that are.
    """
    # A metric that was not finite is stored as null.
    values = {key: float("nan") if value is None else value for key, value in metrics.items()}
    try:
        return _Template().vformat(template, (), values)
    except (KeyError, IndexError, ValueError) as error:
        there = ", ".join(sorted(metrics)) or "none"
        raise ValueError(
            f"{name}: the README template {template!r} does not fit ({error!r}); recorded metrics: {there}"
        ) from None


class _Template(string.Formatter):
    """Takes a field's whole name for a metric's, dots included."""

    def get_field(self, field_name, args, kwargs):
        return kwargs[field_name], field_name


def _verdict(results: claims.Results) -> str:
    failed = [name for name, claim in results.claims.items() if not claim["holds"]]
    held = f"{len(results.claims) - len(failed)} of {len(results.claims)} hold"
    held += f"; fails: {', '.join(f'`{name}`' for name in failed)}" if failed else ""
    return f"{counted}; claims: {held}" if (counted := hypotheses(results)) else held


def hypotheses(results: claims.Results) -> str:
    """Return how many hypotheses of a run held, in words; empty where it kept none."""
    outcomes = [outcome["holds"] for outcome in results.hypotheses.values()]
    still_open = outcomes.count(None)
    counted = f"hypotheses: {outcomes.count(True)} of {len(outcomes)} held" if outcomes else ""
    return counted + (f", {still_open} undecided" if still_open else "")


if __name__ == "__main__":
    main()
