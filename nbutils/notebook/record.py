"""Keep a long run: its results and figures become part of the project, real data do not.

`python -m nbutils run 02 --data real --profile full --out build/full`, then
`python -m nbutils record 02 --source build/full`. A run in the full profile on embedded data is kept beside it.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from nbutils import atomic, claims, layout
from nbutils.data import sources
from nbutils.notebook.document import read
from nbutils.notebook.locks import locked
from nbutils.notebook.parameters import defaults, is_path
from nbutils.plotting.manifests import files_of, manifest_of

RUN = "run.json"  # beside a run's results: its command, date and duration


def note_run(folder: Path, command: str, date: str, seconds: float, error: str | None = None) -> None:
    """Write how the results in a folder came about.

    Args:
        folder: `<out>/<stem>`.
        command: the command line of the same run.
        date: of the run, ISO 8601.
        seconds: it took.
        error: what ended it early.
    """
    note = {"command": command, "date": date, "seconds": round(seconds)} | ({"error": error} if error else {})
    atomic.write(folder / RUN, json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def command(notebook: Path, values: Mapping[str, Any]) -> str:
    """Return the command for the same run; files by their names, because their folders are the reader's own."""
    words = ["python -m nbutils run", notebook.stem.split("-")[0]]
    for name, value in values.items():
        if name in ("PROFILE", "DATA"):
            words.append(f"--{name.lower()} {value}")
        elif name != "RUNS":  # where a run keeps what is finished changes nothing of it
            words.append(f"-p {shlex.quote(f'{name}={Path(value).name if is_path(name, value) else value}')}")
    return " ".join(words)


def used(notebook: Path, folder: Path, values: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what a run used, by its results: data, profile and device; what to warn of; what went wrong.

    Each is empty where there is nothing to say.

    Args:
        notebook: the committed notebook.
        folder: `<out>/<stem>`.
        values: the parameters that the run was given.
    """
    try:
        found = claims.load(folder / "results.json")
    except FileNotFoundError:
        return "", "", ""
    except (ValueError, OSError) as error:
        return "", "", f"{notebook.name}: {error}"
    asked = {name: values.get(name, default) for name, default in defaults(notebook).items()}
    doubt = wrong = ""
    if found.source.startswith("embedded") and asked.get("DATA") in ("auto", "real"):
        text = f"{notebook.name}: DATA is {asked['DATA']!r}, and the data are {found.source.upper()}, not real ones"
        text += f" ({sources.told()})"
        doubt, wrong = (text, "") if asked["DATA"] == "auto" else ("", text)
    profile = asked.get("PROFILE")
    if profile in layout.PROFILES and found.profile in layout.PROFILES and profile != found.profile:
        wrong = f"{notebook.name}: PROFILE is {profile!r}, and the record says {found.profile!r}"
    return f"data: {found.source}, profile {found.profile}, device {found.device}", doubt, wrong


def record(notebook: Path, source: Path) -> list[Path]:
    """Copy a run's results to `results.real.json`, and its figures to `real/`, among the notebook's assets.

    A run on embedded data in the full profile goes to `results.full.json` and `full/`.

    Which figures, the notebook says: `metadata.nbutils.recorded`, a list of names; all where it says nothing.

    Args:
        notebook: the committed notebook; it is only read.
        source: the folder that the run wrote to, `--out`.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: the run left no results there.
        ValueError: the run goes on or ended early; its results are damaged, another notebook's, or of embedded data
            in the quick profile, which `update` keeps; or a figure is missing. Nothing is changed.
    """
    made = source / notebook.stem
    for path in (made / "results.json", made / RUN):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; let `run {notebook.stem} --data real --out {source}` finish")
    # What cannot be written to cannot be disturbed by another run, or locked.
    with locked(source, f"record {notebook.stem}") if os.access(source, os.W_OK) else nullcontext():
        return _recorded(notebook, made)


def _recorded(notebook: Path, made: Path) -> list[Path]:
    found = claims.load(made / "results.json")
    if found.stem != notebook.stem:
        raise ValueError(f"{made / 'results.json'} holds results of {found.stem}, not of {notebook.stem}")
    embedded = found.source.startswith("embedded")
    if embedded and found.profile != "full":
        raise ValueError(
            f"{made / 'results.json'} is of embedded data in the {found.profile} profile; "
            "run with --data real, or with --profile full"
        )
    which = "full" if embedded else "real"
    kept = layout.recorded(notebook.stem, which)
    results = json.loads((made / "results.json").read_text(encoding="utf-8"))
    note = _run(made / RUN)
    error = note.pop("error", None)
    if error and not str(error).startswith(claims.ClaimError.__name__):  # a claim that fails is a result
        raise ValueError(f"{made / RUN}: the run ended early, by {error}; let it finish")
    results |= note
    content = read(notebook)
    there = manifest_of(made)
    names = content.metadata.get("nbutils", {}).get("recorded", list(there))
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"{made} has no figure {', '.join(missing)}; it has {', '.join(there) or 'none'}")

    folder = kept.parent / which
    files = [there[name][key]["file"] for name in names for key in files_of(there[name])]
    contents: dict[Path, str | bytes] = {folder / file: (made / file).read_bytes() for file in files}
    contents[kept] = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    listing = json.dumps({name: there[name] for name in names}, indent=1, sort_keys=True, ensure_ascii=False)
    contents[folder / "manifest.json"] = listing + "\n"  # last: it lists the others
    return atomic.swap(contents, [file for file in folder.glob("*") if file.is_file() and file not in contents])


def _run(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.keys() - {"error"} != {"command", "date", "seconds"}:
        raise ValueError(f"{path} must have command, date and seconds of a run; got {content!r}")
    return content
