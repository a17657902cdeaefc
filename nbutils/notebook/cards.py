"""What the README and the index show of a notebook, read from its metadata and its recorded results.

A notebook says it in `metadata.nbutils.readme`:

    {"question": "Does ablating one dimension delete only red?",
     "sign": "partly",
     "verdict": "the numbers come back, the word “only” does not",
     "picture": "latents-tilted",
     "headline": {"label": "correlation of error with similarity to red", "format": "{r_mean:.3f} ± {r_std:.3f}",
                  "source": ".931 ± .034"},
     "rows": [{"label": "r of error with similarity to red", "format": "{r_mean:.3f} ± {r_std:.3f}",
               "source": ".931 ± .034",
               "compare": {"panel": "correlation", "found": "r_mean", "spread": "r_std",
                           "published": 0.931, "published_spread": 0.034}}]}

`sign` is one of `SIGNS`; `picture`, the name of a figure of the notebook's manifest. `headline` and each row are one
quantity: `format` is a template over the metrics recorded in `results.json`, and `source`, what the source system
reports, where it reports that number. With `"record": "real"` they read `results.real.json`, the recorded run on real
data; with `"full"`, `results.full.json`, that of the full profile on embedded data. A row with `compare` is drawn in
the figure "found against published", among the rows of the same `panel`, also a template; its `spread`, a standard
deviation, and a shorter `label` may be left out.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbutils import claims, layout
from nbutils.notebook.document import opening, read
from nbutils.plotting.forest import Compared
from nbutils.plotting.manifests import manifest_of

SIGNS = {"confirmed": "✓", "partly": "◐", "refuted": "✗"}
RESULTS = {"embedded": "results.json", **{which: f"results.{which}.json" for which in layout.RECORDED}}
RUNS = {"embedded": "quick", "full": "full", "real": "real data"}  # what a reader calls a record
INDEX = "00"
NOT_RUN = "not run"

_TEXTS = ("question", "sign", "verdict", "picture")
_COMPARED = {"panel": str, "found": str, "published": int | float}
_OPTIONAL = {"label": str, "spread": str, "published_spread": int | float}


@dataclass(frozen=True)
class Quantity:
    """One number of a notebook, as text, beside what the source reports; empty where it does not."""

    label: str
    found: str
    source: str
    record: str
    compared: Compared | None = None


@dataclass(frozen=True)
class Card:
    """What is shown of one notebook.

    `light` and `dark` are the files of its picture, `alt` describes it. `records` has the results of each kept run.
    """

    path: Path
    title: str
    question: str
    sign: str
    verdict: str
    light: Path
    dark: Path
    alt: str
    headline: Quantity
    quantities: list[Quantity]
    records: Mapping[str, claims.Results]

    @property
    def number(self) -> str:
        return self.path.stem.split("-")[0]


def load(root: Path | None = None) -> list[Card]:
    """Return the cards of all numbered notebooks but the index, in order.

    Args:
        root: the project folder; `layout.root()` when not given.

    Raises:
        ValueError: a notebook has no title, its metadata have another form, or they name a picture or a metric that
            is not recorded; the message names the notebook and what there is.
    """
    root = root or layout.root()
    paths = sorted((root / "notebooks").glob("[0-9][0-9]-*.ipynb"))
    return [card(path, root / "large-assets" / path.stem) for path in paths if not path.stem.startswith(f"{INDEX}-")]


def card(notebook: Path, assets: Path) -> Card:
    """Return the card of one notebook.

    Args:
        notebook: the notebook's path.
        assets: the folder of its committed figures and results.

    Raises:
        ValueError: as for `load`.
    """
    content = read(notebook)
    title, _ = opening(content)
    if not title:
        raise ValueError(f"{notebook.name} has no heading '# NN · title' in a Markdown cell")
    own = content.metadata.get("nbutils", {})
    spec = _checked(notebook.name, own.get("readme") if isinstance(own, dict) else None)
    kept = {kind: assets / name for kind, name in RESULTS.items()}
    records = {kind: claims.load(path) for kind, path in kept.items() if path.exists()}
    headline = _quantity(notebook.name, spec["headline"], records)
    if headline.found == NOT_RUN:
        raise ValueError(
            f"{notebook.name}: the headline of its card reads the {headline.record} run, which is not kept"
        )
    pictures = manifest_of(assets)
    name = spec["picture"]
    if name not in pictures:
        raise ValueError(f"{notebook.name} has no picture {name!r} for its card; there are {_listed(pictures)}")
    light, dark = (assets / pictures[name][look]["file"] for look in ("light", "dark"))
    if missing := [path.name for path in (light, dark) if not path.is_file()]:
        raise ValueError(f"{notebook.name}: the picture of its card is missing: {', '.join(missing)}")
    return Card(
        path=notebook,
        title=title,
        question=spec["question"],
        sign=spec["sign"],
        verdict=spec["verdict"],
        light=light,
        dark=dark,
        alt=pictures[name]["alt"],
        headline=headline,
        quantities=[_quantity(notebook.name, row, records) for row in spec["rows"]],
        records=records,
    )


def _checked(name: str, spec: object) -> dict[str, Any]:
    """Return the `readme` metadata of a notebook, if they have the form above."""
    where = f"{name}: metadata.nbutils.readme"
    if not isinstance(spec, dict):
        raise ValueError(f"{where} is missing; it has {', '.join(_TEXTS)}, headline and rows, got {spec!r}")
    for key in _TEXTS:
        if not isinstance(spec.get(key), str) or not spec[key].strip():
            raise ValueError(f"{where} needs {key!r} as text, got {spec.get(key)!r}")
    if spec["sign"] not in SIGNS:
        raise ValueError(f"{where}: 'sign' is one of {', '.join(SIGNS)}, got {spec['sign']!r}")
    if not isinstance(spec.get("rows"), list):
        raise ValueError(f"{where} needs a list 'rows', got {spec.get('rows')!r}")
    for entry in (spec.get("headline"), *spec["rows"]):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("label", "format")):
            raise ValueError(f"{where}: headline and rows have 'label' and 'format', got {entry!r}")
        if ";" in entry["format"]:
            raise ValueError(f"{where}: a row is one quantity, so its 'format' has no semicolon, got {entry!r}")
        if not isinstance(entry.get("source", ""), str):
            raise ValueError(f"{where}: 'source' is text, got {entry['source']!r}")
        if entry.get("record", "embedded") not in RESULTS:
            raise ValueError(f"{where}: 'record' is one of {', '.join(RESULTS)}, got {entry['record']!r}")
        if "compare" in entry:
            _check_compared(where, entry["compare"])
    return spec


def _check_compared(where: str, compare: Any) -> None:
    forms = _COMPARED | _OPTIONAL
    known = isinstance(compare, dict) and set(_COMPARED) <= set(compare) <= set(forms)
    if not known or not all(isinstance(compare[key], form) for key, form in forms.items() if key in compare):
        expected = f"{', '.join(_COMPARED)} and perhaps {', '.join(_OPTIONAL)}"
        raise ValueError(f"{where}: 'compare' has {expected}, got {compare!r}")


def _quantity(name: str, entry: Mapping[str, Any], records: Mapping[str, claims.Results]) -> Quantity:
    """Return an entry with the numbers of its record."""
    kind = entry.get("record", "embedded")
    label, source = entry["label"].strip(), entry.get("source", "").strip()
    if kind not in records:
        return Quantity(label, NOT_RUN, source, RUNS[kind])
    metrics = records[kind].metrics
    found = filled(entry["format"], metrics, name)
    compared = None
    if "compare" in entry:
        spec = entry["compare"]
        value = _metric(name, spec["found"], metrics)
        around = _metric(name, spec["spread"], metrics) if "spread" in spec else None
        published, spread, short = spec["published"], spec.get("published_spread"), spec.get("label", label)
        told = source.partition(" (")[0]
        panel = filled(spec["panel"], metrics, name)
        compared = Compared(panel, short, value, around, published, spread, found, told)
    return Quantity(label, found, source, RUNS[kind], compared)


def _metric(name: str, key: str, metrics: Mapping[str, float | int | None]) -> float:
    value = metrics.get(key)
    if value is None:
        raise ValueError(f"{name}: 'compare' names {key!r}; recorded metrics: {_listed(metrics)}")
    return float(value)


def filled(template: str, metrics: Mapping[str, float | int | None], name: str) -> str:
    """Return a template with recorded metrics in it.

    Raises:
        ValueError: it names a metric that is not recorded; the message begins with `name` and lists those that are.
    """
    # A metric that was not finite is stored as null.
    values = {key: float("nan") if value is None else value for key, value in metrics.items()}
    try:
        return _Template().vformat(template, (), values)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name}: the README template {template!r} does not fit ({error!r}); recorded metrics: {_listed(metrics)}"
        ) from None


class _Template(string.Formatter):
    """Takes a field's whole name for a metric's, dots included."""

    def get_field(self, field_name, args, kwargs):
        return kwargs[field_name], field_name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
