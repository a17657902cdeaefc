"""Keep a long run: its results and figures become part of the project, real data do not.

`python -m nbutils run 02 --data real --profile full --out build/full`, then
`python -m nbutils record 02 --source build/full`. A run in the full profile on embedded data is kept beside it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from nbutils import atomic, claims, layout
from nbutils.notebook.document import read
from nbutils.plotting.manifests import manifest_of

RUN = "run.json"  # beside a run's results: its command, date and duration


def note_run(folder: Path, command: str, date: str, seconds: float) -> None:
    """Write how the results in a folder came about.

    Args:
        folder: `<out>/<stem>`.
        command: the command line of the same run.
        date: of the run, ISO 8601.
        seconds: it took.
    """
    text = json.dumps({"command": command, "date": date, "seconds": round(seconds)}, indent=1)
    atomic.write(folder / RUN, text + "\n")


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
        ValueError: its results are damaged, or of embedded data in the quick profile, which `update` keeps; or a figure
            is missing. Nothing is changed.
    """
    made = source / notebook.stem
    for path in (made / "results.json", made / RUN):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; let `run {notebook.stem} --data real --out {source}` finish")
    found = claims.load(made / "results.json")
    embedded = found.source.startswith("embedded")
    if embedded and found.profile != "full":
        raise ValueError(
            f"{made / 'results.json'} is of embedded data in the {found.profile} profile; "
            "run with --data real, or with --profile full"
        )
    which = "full" if embedded else "real"
    kept = layout.recorded(notebook.stem, which)
    results = json.loads((made / "results.json").read_text(encoding="utf-8"))
    results |= _run(made / RUN)
    content = read(notebook)
    there = manifest_of(made)
    names = content.metadata.get("nbutils", {}).get("recorded", list(there))
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"{made} has no figure {', '.join(missing)}; it has {', '.join(there) or 'none'}")

    folder = kept.parent / which
    pictures = {entry["file"]: made / entry["file"] for n in names for k, entry in there[n].items() if k in _LOOKS}
    contents = {name: path.read_bytes() for name, path in pictures.items()}
    shutil.rmtree(folder, ignore_errors=True)
    written = [atomic.write(folder / name, picture) for name, picture in contents.items()]
    listing = json.dumps({name: there[name] for name in names}, indent=1, sort_keys=True, ensure_ascii=False)
    written.append(atomic.write(folder / "manifest.json", listing + "\n"))
    written.append(atomic.write(kept, json.dumps(results, indent=1, ensure_ascii=False) + "\n"))
    return written


def _run(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.keys() != {"command", "date", "seconds"}:
        raise ValueError(f"{path} must have command, date and seconds of a run; got {content!r}")
    return content


_LOOKS = ("light", "dark")
