"""The README's results: a card per notebook, what was found against what was published, and every number.

They are written between two markers from the notebooks' metadata and recorded results, whose form
`nbutils.notebook.cards` describes; the index shows the same. `python -m nbutils.notebook.readme` rewrites them in
place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from nbutils import atomic, claims, layout
from nbutils.notebook.cards import INDEX, RUNS, SIGNS, Card, load
from nbutils.notebook.document import first_sentence, plain, tally
from nbutils.plotting.forest import Compared
from nbutils.plotting.manifests import manifest_of

BEGIN = "<!-- results: written by `make update`, not by hand -->"
END = "<!-- end of results -->"
FOREST = "found-against-published"  # the figure of the index that the README shows
NOTHING = "–"
THUMBNAIL, WIDE = 260, 870  # pixels on screen
SIGNS_SAY = (
    ", ".join(f"{sign} {word}" for word, sign in SIGNS.items())
    + ": what the source says or, where it says nothing, what was expected first. "
    "± is a standard deviation over networks, brackets hold a 95 % interval."
)


def results(root: Path | None = None) -> str:
    """Return what stands between the README's markers, failed claims and missing runs included.

    Raises:
        ValueError: what a card shows is missing (see `cards.load`), or the index has no picture `FOREST`.
    """
    root = root or layout.root()
    found = load(root)
    committed = [card.records["embedded"] for card in found if "embedded" in card.records]
    parts = [
        cards(found, root),
        f"{SIGNS_SAY} In the committed runs {tally(*committed)}. A hypothesis that falls is a finding; a stored result "
        "that does not come back makes the tests fail.",
        _forest(root),
        folded("Every number", numbers(found, root)),
        folded("Hypotheses and stored results, run by run", counts(found, root)),
    ]
    return "\n\n".join(part for part in parts if part)


def cards(found: Iterable[Card], start: Path) -> str:
    """Return the cards as an HTML table that Markdown keeps.

    Args:
        found: the cards.
        start: the folder from which links and pictures are reached.
    """
    return "\n".join(['<table class="cards">', *(_row(card, start) for card in found), "</table>"])


def _row(card: Card, start: Path) -> str:
    link = _address(card.path, start)
    picture = _picture(card.light, card.dark, first_sentence(card.alt), THUMBNAIL, start)
    headline = card.headline
    lines = [
        f'<b><a href="{link}">{_text(plain(card.title))}</a></b>',
        _text(card.question),
        f"<b>{SIGNS[card.sign]} {card.sign.capitalize()}:</b> {_text(card.verdict)}",
        f"<b>{_text(headline.found)}</b> {_text(headline.label)}; "
        f"published: <b>{_text(headline.source or 'no number')}</b>",
    ]
    text = "<br>\n".join(lines)
    return f'<tr>\n<td width="32%"><a href="{link}">{picture}</a></td>\n<td>{text}</td>\n</tr>'


def _text(text: str) -> str:
    return escape(text, quote=False)


def _picture(light: Path, dark: Path, alt: str, width: int, start: Path) -> str:
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{_address(dark, start)}">'
    image = f'<img src="{_address(light, start)}" alt="{escape(alt)}" width="{width}">'
    return f"<picture>{source}{image}</picture>"


def _address(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _forest(root: Path) -> str:
    """Return the figure "found against published" as the index shows it; empty where there is no index."""
    for notebook in (root / "notebooks").glob(f"{INDEX}-*.ipynb"):
        folder = root / "large-assets" / notebook.stem
        entry = manifest_of(folder).get(FOREST)
        if entry is None:
            raise ValueError(f"{notebook.name} has no picture {FOREST!r}; run `python -m nbutils update {INDEX}`")
        light, dark = (folder / entry[look]["file"] for look in ("light", "dark"))
        if missing := [path.name for path in (light, dark) if not path.is_file()]:
            raise ValueError(f"{notebook.name}: {', '.join(missing)} is missing")
        picture = _picture(light, dark, entry["alt"], WIDE, root)
        return f"**Found against published.** {entry.get('caption', '')}\n\n<p>{picture}</p>"
    return ""


def compared(found: Iterable[Card]) -> list[Compared]:
    """Return the numbers that a source reports as well."""
    return [number.compared for card in found for number in card.quantities if number.compared]


def numbers(found: Iterable[Card], start: Path) -> str:
    """Return every quantity, one a row, as a Markdown table."""
    rows = [
        (_link(card, start), one.label, one.found, one.source or NOTHING, one.record)
        for card in found
        for one in card.quantities
    ]
    return _table(("notebook", "quantity", "found", "source", "record"), rows)


def counts(found: Iterable[Card], start: Path) -> str:
    """Return how many hypotheses and stored results of each run held, as a Markdown table."""
    rows = []
    for card in found:
        for kind, record in card.records.items():
            outcomes = [outcome["holds"] for outcome in record.hypotheses.values()]
            failed = [name for name, claim in record.claims.items() if not claim["holds"]]
            back = f"{reproduced(record)} of {len(record.claims)}"
            back += f" (not {', '.join(f'`{name}`' for name in failed)})" if failed else ""
            held = f"{outcomes.count(True)} of {len(outcomes)}" if outcomes else "none kept"
            undecided = str(outcomes.count(None)) if outcomes else NOTHING
            rows.append((_link(card, start), RUNS[kind], held, undecided, back))
    return _table(("notebook", "run", "hypotheses held", "undecided", "stored results reproduced"), rows)


def reproduced(record: claims.Results) -> int:
    """Return how many stored results of a run came back."""
    return sum(bool(claim["holds"]) for claim in record.claims.values())


def _link(card: Card, start: Path) -> str:
    return f"[{card.number}]({_address(card.path, start)})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(summary: str, markdown: str) -> str:
    """Return Markdown that is shown on demand."""
    return f"<details>\n<summary><b>{_text(summary)}</b></summary>\n\n{markdown}\n\n</details>"


def refreshed(text: str, results: str) -> str:
    """Return the README's text with what stands between its two markers replaced by `results`.

    Raises:
        ValueError: the markers are missing, repeated or in the wrong order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the README needs one line {BEGIN!r} and below it one line {END!r}")
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{after}"


def main() -> None:
    """Rewrite the results in the project's README and say whether they changed."""
    path = layout.root() / "README.md"
    old = path.read_text(encoding="utf-8")
    try:
        new = refreshed(old, results())
    except ValueError as error:
        sys.exit(f"README.md: {error}")
    if new != old:
        atomic.write(path, new)
    print(f"README.md: results {'are current' if new == old else 'rewritten'}")


if __name__ == "__main__":
    main()
