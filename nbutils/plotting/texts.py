"""The alternative texts and captions of figures: one `figures.toml` per notebook.

    notebook = "01-color-cube"

    ["cube-{plan}"]
    alt = \"\"\"
    Four slices of the HSV cube under the plan {plan};
    outer patches reconstructed, inner true: {looks}.\"\"\"
    caption = "The colour cube under the plan {plan}, where $e_0$ is red."

The alternative text says what a sighted reader takes from the figure; the caption, which everyone reads, what is shown.
The caption may be left out. A table's name is the name given to `figures.show`. Name and texts are templates of
`str.format`; their values are the call's: `show(draw, "cube-{plan}", plan=plan, looks=LOOKS[plan])` writes
`cube-ablated.png` where `plan` is `"ablated"`. Line breaks count as spaces.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from nbutils import layout

TAKEN = {"alt", "caption", "data", "stem", "twin", "width"}  # what `figures.show` takes for itself: no names of values


def find(stem: str) -> Path | None:
    """Return the `figures.toml` that names this notebook, None where there is none.

    Raises:
        ValueError: several name it, or one is no such file.
    """
    paths = [path for path in layout.figure_texts() if _parse(path)["notebook"] == stem]
    if len(paths) > 1:
        raise ValueError(f"{stem} has several figures.toml: {', '.join(map(str, paths))}; keep one")
    return paths[0] if paths else None


def filled(stem: str, name: str, values: Mapping[str, object]) -> tuple[str, str, str]:
    """Return a figure's name, description and caption (empty where it has none) with the values filled in.

    Args:
        stem: the notebook's stem.
        name: the name of a table of its `figures.toml`.
        values: what the templates ask for, and nothing else.

    Raises:
        KeyError: there is no such entry, or a value is missing.
        ValueError: a value is not asked for, does not fit its format, or the file has another form.
    """
    path = find(stem)
    if path is None:
        raise KeyError(
            f"figure {name!r} has no alt text: add [{name!r}] to the figures.toml of {stem}, "
            f'which has the line notebook = "{stem}", or give alt='
        )
    entries = _entries(path)
    if name not in entries:
        raise KeyError(f"{path} has no entry [{name!r}]; there are {', '.join(entries) or 'none'}")
    templates = [name, entries[name]["alt"], entries[name].get("caption", "")]
    wanted = set().union(*map(fields, templates))
    if missing := sorted(wanted - set(values)):
        raise KeyError(f"{path}: [{name!r}] asks for {', '.join(missing)}; give them to show(…)")
    if extra := sorted(set(values) - wanted):
        raise ValueError(f"{path}: [{name!r}] does not ask for {', '.join(extra)}, only {sorted(wanted) or 'nothing'}")
    try:
        filled_in, alt, caption = (" ".join(template.format(**values).split()) for template in templates)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: [{name!r}] cannot be filled in: {type(error).__name__}: {error}") from error
    return filled_in, alt, caption


def fields(template: str) -> set[str]:
    """Return the names of the values that a template of `str.format` asks for.

    Raises:
        ValueError: it is no such template, or asks for a value by place.
    """
    names: set[str] = set()
    for _, name, spec, _ in Formatter().parse(template):
        if name is None:
            continue
        first = name.partition(".")[0].partition("[")[0]
        if not first.isidentifier():
            raise ValueError(f"expected a name in every pair of braces, got {{{name}}}; a brace itself is doubled")
        names |= {first} | fields(spec or "")
    return names


def faults(stem: str, sources: Iterable[str]) -> Iterator[str]:
    """Yield what does not fit between a notebook's code cells and its `figures.toml`.

    A figure shown without alt text has no entry, or an entry is shown by no cell.

    Args:
        stem: the notebook's stem.
        sources: the sources of its code cells.
    """
    try:
        path = find(stem)
        entries = _entries(path) if path else {}
    except ValueError as error:
        yield str(error)
        return
    shown = {name for source in sources for name in _shown(source)}
    where = path.name if path else f'no figures.toml has notebook = "{stem}", and'
    for name in sorted(shown - set(entries)):
        yield f"figure {name!r} is shown without alt text, and {where} has no entry of this name"
    for name in sorted(set(entries) - shown):
        yield f"{where}: no cell shows {name!r}"


def _entries(path: Path) -> dict[str, dict[str, str]]:
    return {name: table for name, table in _parse(path).items() if name != "notebook"}


def _shown(source: str) -> Iterator[str]:
    """Yield the names of the figures that a cell shows without giving their alt text."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Name(id="show") | ast.Attribute(attr="show"),
                args=[_, ast.Constant(value=str(name))],
                keywords=keywords,
            ) if "alt" not in {keyword.arg for keyword in keywords}:
                yield name


def _parse(path: Path) -> dict[str, Any]:
    """Return what a `figures.toml` holds, checked."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of TOML, or of UTF-8
        raise ValueError(f"{path} is not TOML: {error}") from None
    if not isinstance(content.get("notebook"), str):
        raise ValueError(f'{path}: expected a line notebook = "…" with a notebook\'s stem on top')
    for name, table in content.items():
        if name == "notebook":
            continue
        known = isinstance(table, dict) and {"alt"} <= set(table) <= {"alt", "caption"}
        if not known or not all(isinstance(text, str) for text in table.values()):
            expected = "with alt, and caption or none, as text and nothing else"
            raise ValueError(f"{path}: expected a table [{name!r}] {expected}, got {table!r}")
        for key, text in table.items():
            if not text.strip():
                raise ValueError(f"{path}: [{name!r}] has an empty {'alt text' if key == 'alt' else key}")
        try:
            asked = set().union(*map(fields, (name, *table.values())))
        except ValueError as error:
            raise ValueError(f"{path}: [{name!r}] is no template: {error}") from None
        if taken := sorted(TAKEN & asked):
            raise ValueError(f"{path}: [{name!r}] asks for {', '.join(taken)}, which show(…) takes itself; rename")
    return content
