"""Where things live: one stem joins a notebook, its dopesheet, its figures and its recorded results."""

from __future__ import annotations

import os
import re
from pathlib import Path

OUT_VARIABLE = "NBUTILS_OUT"  # folder that receives figures and results instead of large-assets/
STEM_VARIABLE = "NBUTILS_STEM"  # stem of the notebook that `run`, `update` and `test` execute, for its kernel
PROFILES = ("quick", "full")  # scales of a run
DATA = ("embedded", "real", "auto")  # choices of data
RECORDED = ("real", "full")  # kept runs: on real data, and on embedded data in the full profile


def root() -> Path:
    """Return the project folder: the one that holds `notebooks/`, above this package or above the working folder.

    Raises:
        FileNotFoundError: neither the package nor the working folder lies in a checkout.
    """
    for start in (Path(__file__).resolve().parent, Path.cwd().resolve()):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "dopesheets").is_dir():
                return folder
    raise FileNotFoundError(
        f"no folder with notebooks/ and dopesheets/ above {Path(__file__).parent} or {Path.cwd()}; "
        "run from a checkout of the project"
    )


def expanded(path: str | Path) -> Path:
    """Return a path with `~` or `~user` at its start replaced by that home folder.

    Raises:
        FileNotFoundError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f"{path}: there is no home folder {Path(path).parts[0]}") from None


def folder(text: str) -> Path:
    """Return the folder that an option names; it need not be there.

    Raises:
        FileNotFoundError: an empty text, as of a variable that is not set, or a home folder that is not there.
        NotADirectoryError: a file is there.
    """
    path = expanded(text)
    file = next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None)
    if file:
        raise NotADirectoryError(f"{file} is a file; expected a folder")
    if not text:
        raise FileNotFoundError("expected a folder; got ''")
    return path


def notebooks(*selectors: str) -> list[Path]:
    """Return the numbered notebooks in order, found by glob.

    Args:
        selectors: numbers (`"01"`, `"1"`) or stems (`"01-color-cube"`); none selects all.

    Raises:
        KeyError: a selector matches no notebook; the message lists what there is.
    """
    found = sorted((root() / "notebooks").glob("[0-9][0-9]-*.ipynb"))
    if not selectors:
        return found
    chosen = []
    for selector in selectors:
        name = Path(selector).stem if selector.endswith(".ipynb") else selector
        name = name.zfill(2) if name.isdigit() else name
        matches = [path for path in found if path.stem == name or path.stem.split("-")[0] == name]
        if selector.endswith(".ipynb") and Path(selector).resolve() not in found and Path(selector).name != selector:
            matches = []  # a path leads to one file; a namesake elsewhere is not it
        if not matches:
            raise KeyError(f"no notebook {selector!r}; there are {', '.join(path.stem for path in found) or 'none'}")
        chosen += [path for path in matches if path not in chosen]
    return sorted(chosen)


def assets(stem: str) -> Path:
    """Return the folder for a notebook's figures and results: `$NBUTILS_OUT/<stem>`, else `large-assets/<stem>`."""
    out = os.environ.get(OUT_VARIABLE)
    return (Path(out) if out else root() / "large-assets") / stem


def expect_own(stem: str) -> None:
    """Refuse a stem that belongs to another notebook: a copy that kept it would write the other's results.

    The command line says which notebook runs, and so does Jupyter where the file has a number.

    Raises:
        ValueError: the running notebook has another name.
    """
    running = os.environ.get(STEM_VARIABLE, "")
    opened = Path(os.environ.get("JPY_SESSION_NAME", ""))
    if not running and opened.suffix == ".ipynb" and re.match(r"\d\d-", opened.stem):
        running = opened.stem
    if running and stem != running:
        raise ValueError(
            f"{running}.ipynb would write the results of {stem!r}, another notebook's; write STEM = {running!r}"
        )


def dopesheet(stem: str) -> Path:
    """Return the path of a notebook's parameter schedule."""
    return root() / "dopesheets" / f"{stem}.csv"


def figure_texts() -> list[Path]:
    """Return the files that describe the figures of notebooks, one in each study's room."""
    return sorted((root() / "notebooks" / "studies").glob("*/figures.toml"))


def marks() -> Path:
    """Return the file that gives each name its colour and marker in figures."""
    return root() / "notebooks" / "studies" / "marks.toml"


def recorded(stem: str, which: str = "real") -> Path:
    """Return the path of the results of a notebook's last recorded run, whatever `$NBUTILS_OUT` says.

    Its figures lie in the folder `which` beside it.

    Args:
        stem: the notebook's stem.
        which: one of `RECORDED`.

    Raises:
        KeyError: no such kind of run is kept.
    """
    if which not in RECORDED:
        raise KeyError(f"recorded runs are {', '.join(RECORDED)}; got {which!r}")
    return root() / "large-assets" / stem / f"results.{which}.json"
