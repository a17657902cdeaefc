"""The command line: `python -m nbutils list | doctor | run | record | test | render | update`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import date
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from nbutils import __version__, claims, devices, layout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 where a notebook or test failed, 2 where the command cannot be carried out, 128 and the number
        of the signal that ended it.
    """
    from nbutils.notebook import endings

    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a sign is no reason to fail
    try:
        with endings.by_signal():
            try:
                return _carried_out(arguments)
            except KeyboardInterrupt as interrupt:
                ended = isinstance(interrupt, endings.Ended)
                _complain(f"ended by {interrupt}" if ended else "interrupted")
                return interrupt.code if isinstance(interrupt, endings.Ended) else 130
            finally:
                sys.stdout.flush()
    except BrokenPipeError:  # `nbutils list | head -1`: whoever reads has seen enough
        endings.forget_output()
        return endings.CLOSED_PIPE


def _carried_out(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        return options.command(options)
    except BrokenPipeError:
        raise
    except (ValueError, KeyError, OSError, ModuleNotFoundError) as error:
        _complain(_message(error))
        return 2


def _complain(message: str) -> None:
    print(f"nbutils: {message}", file=sys.stderr, flush=True)


def _message(error: Exception, notebook: Path | None = None) -> str:
    """Return an error's whole text without colours, with the notebook in front where it does not say it."""
    from nbutils.notebook import document

    # KeyError's own text is the repr of its message.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = document.unstyled(text).strip() or type(error).__name__
    if not isinstance(error, ValueError | KeyError | OSError | RuntimeError | ImportError):
        text = f"{type(error).__name__}: {text}"
    return text if notebook is None or notebook.name in text else f"{notebook.name}: {text}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nbutils", description="Run, test, render and update the notebooks.")
    parser.add_argument("--version", action="version", version=f"nbutils {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, about: str, *, chooses: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command)
        if chooses:
            sub.add_argument("notebooks", nargs="*", metavar="NN", help="number or stem; all when none is given")
        return sub

    add("list", _list, "List the notebooks: title, runtime, recorded claims.")
    add("doctor", _doctor, "Say what this machine has: versions, cores, memory, device, data.", chooses=False)
    run = add("run", _run, "Execute copies of notebooks; the committed ones are not touched.")
    run.add_argument("--profile", choices=("quick", "full"), help="scale; the notebook's own when not given")
    run.add_argument("--data", choices=("embedded", "real", "auto"), help="the notebook's own when not given")
    run.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter; paths start at the current folder",
    )
    run.add_argument("--out", type=layout.folder, metavar="DIR", help="where to write (default: build/run)")
    record = add("record", _record, "Keep a long run in large-assets/: on real data, or in the full profile.")
    record.add_argument("--source", type=layout.folder, required=True, metavar="DIR", help="where `run --out` wrote to")
    add("test", _test, "Run the tests, then compare the notebooks with their stored outputs.", chooses=False)
    render = add("render", _render, "Write the supplement: one offline HTML page per notebook, and an index.")
    render.add_argument("--out", type=layout.folder, metavar="DIR", help="where to write (default: build/html)")
    render.add_argument(
        "--source", type=layout.folder, metavar="DIR", help="folder of executed copies (default: committed notebooks)"
    )
    render.add_argument("--pdf", action="store_true", help="write PDF as well")
    add("update", _update, "Execute notebooks in place, normalised, and print what changed.")
    return parser


def _list(options: argparse.Namespace) -> int:
    faults = 0
    for path in layout.notebooks(*options.notebooks):
        try:
            title, runtime = _headline(path)
            print(f"{title}   [{', '.join(part for part in (runtime, _verdict(layout.assets(path.stem))) if part)}]")
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            faults += 1
            _complain(_message(error, path))
    return 1 if faults else 0


def _headline(path: Path) -> tuple[str, str]:
    """Return a notebook's first heading, and the runtime its introduction states for the quick profile."""
    from nbutils.notebook import document

    notebook = document.read(path)
    title, _ = document.opening(notebook)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    stated = re.search(r"quick\b[^\n]*?((?:\d+[.,–-])?\d+\s*(?:s|seconds?|min|minutes?))\b", prose, re.IGNORECASE)
    return title or path.stem, f"quick: {stated[1]}" if stated else ""


def _verdict(assets: Path) -> str:
    """Return how many recorded claims hold and fail."""
    path = assets / "results.json"
    if not path.exists():
        return "no results recorded"
    held = [bool(claim["holds"]) for claim in claims.load(path).claims.values()]
    return f"claims: {sum(held)} held, {len(held) - sum(held)} failed"


def _doctor(options: argparse.Namespace) -> int:
    from importlib.metadata import version

    import psutil
    import torch

    from nbutils.data import sources

    there = ", ".join(devices.told(torch.device(name)) for name in devices.available())
    memory = psutil.virtual_memory()
    try:
        place = f"in {layout.root()}"
    except FileNotFoundError:  # a diagnosis is wanted most where something is amiss
        place = "outside a checkout: there are no notebooks here"
    print(f"nbutils      {__version__} {place}")
    print(f"python       {sys.version.split()[0]} at {sys.executable}")
    for package in ("torch", "torchvision", "numpy"):
        print(f"{package:<12} {version(package)}")
    print(f"devices      {there}")
    print(f"threads      {torch.get_num_threads()} of torch, {os.cpu_count()} cores")
    print(f"memory       {memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB")
    print(f"data         {sources.told()}; embedded data is always there")
    for source in sources.all_sources():
        if source.found:
            state = f"found in {source.path}"
        elif source.looked_in:
            state = f"not in {', '.join(map(str, source.looked_in))}: no {', '.join(source.missing)}"
        else:
            state = "not looked for"
        print(f"  {source.name:<22} {state}   ({source.kind})")
    return 0


def _run(options: argparse.Namespace) -> int:
    plans, failures = _plans(options)  # everything is checked before anything runs

    from nbutils import progress
    from nbutils.notebook import execute, locks, record

    out = (options.out or layout.root() / "build" / "run").expanduser().resolve()
    stems = " ".join(path.stem.split("-")[0] for path, _ in plans)
    with locks.locked(out, f"run {stems}"), progress.bar(len(plans), "notebooks") as bar:
        for path, parameters in plans:
            start = time.perf_counter()
            copy, folder, problem, ended = out / path.name, out / path.stem, "", ""
            try:
                copy = execute.run(path, out, parameters)
            except Exception as error:  # whatever it is, it is this notebook's, and the others go on
                problem = _message(error, path)
                ended = error.error if isinstance(error, execute.CellFailure) else problem
            seconds = time.perf_counter() - start
            used, doubt, wrong = record.used(path, folder, parameters)
            verdict = _verdict(folder) if used or not wrong else ""  # results that cannot be read have none
            problem = problem or wrong
            try:
                note = record.command(path, parameters), date.today().isoformat(), seconds
                record.note_run(folder, *note, error=ended or problem or None)
            except OSError as error:
                problem = problem or _message(error, path)
            parts = [path.stem, f"{seconds:.1f} s", verdict, used, _short(copy), "FAILED" if problem else ""]
            bar.write("   ".join(filter(None, parts)), file=sys.stdout)
            for line in filter(None, (doubt, problem)):
                bar.write(f"nbutils: {line}", file=sys.stderr)
            failures += bool(problem)
            bar.update()
    return 1 if failures else 0


def _plans(options: argparse.Namespace) -> tuple[list[tuple[Path, dict[str, Any]]], int]:
    """Return the notebooks to run with their parameters, checked, and how many cannot be read."""
    from nbutils.notebook import document, parameters

    chosen = layout.notebooks(*options.notebooks)
    if not chosen:
        raise FileNotFoundError(f"there are no notebooks in {layout.root() / 'notebooks'}")
    choices = {name: value for name, value in (("PROFILE", options.profile), ("DATA", options.data)) if value}
    given: dict[str, str] = {}
    for name, value in map(_parameter, options.parameters):
        if (given | choices).get(name, value) != value:
            raise ValueError(f"{name} is given twice, as {(given | choices)[name]} and as {value}")
        given[name] = value
    plans, unread = [], 0
    for path in chosen:
        try:
            document.read(path)
        except ValueError as error:
            unread += 1
            _complain(_message(error))
            continue
        known = parameters.defaults(path)
        own = {name: value for name, value in choices.items() if name in known}
        parameters.check_parameters(path, own)
        # An index has no profile: a choice for all applies where it can.
        for name in choices.keys() - known.keys() if options.notebooks else ():
            _complain(f"{path.name} has no {name}: --{name.lower()} {choices[name]} changes nothing of it")
        plans.append((path, own | parameters.chosen(path, given)))
    return plans, unread


def _record(options: argparse.Namespace) -> int:
    from nbutils.notebook import record

    for path in layout.notebooks(*options.notebooks):
        for written in record.record(path, options.source):
            print(_short(written))
    return 0


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"-p takes NAME=VALUE, got {text!r}")
    return name, value


def _short(path: Path) -> str:
    """Return a path as seen from the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _test(options: argparse.Namespace) -> int:
    from nbutils.notebook import endings, kernels

    root, environment = layout.root(), kernels.resolved(os.environ)
    pytest = [sys.executable, "-m", "pytest", "-n", "2", "--dist"]
    compare = ["--continue-on-collection-errors", "--nbval", "--nbval-current-env"]  # past what is no notebook
    compare += ["--nbval-cell-timeout", "540"]  # below the limit for a test
    commands = [[*pytest, "loadfile", "tests"]]  # one process runs notebooks in the browser, the other the rest
    if layout.notebooks():
        commands.append([*pytest, "loadscope", *compare, "notebooks"])
    codes = [endings.supervised(command, root, environment) for command in commands]  # both, whatever the first says
    return 1 if any(codes) else 0


def _render(options: argparse.Namespace) -> int:
    from nbutils.notebook import render

    out = (options.out or layout.root() / "build" / "html").expanduser().resolve()
    chosen = layout.notebooks(*options.notebooks)
    if options.source:
        chosen = _executed(chosen, options.source.expanduser(), all_of_them=bool(options.notebooks))
    faults = 0
    try:
        written = render.render_all(chosen, out, pdf=options.pdf)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # one notebook is no reason to leave the others
        sound = _sound(chosen)
        if not sound or len(sound) == len(chosen):
            raise ValueError(_message(error)) if not sound else error from None
        faults, written = len(chosen) - len(sound), render.render_all(sound, out, pdf=options.pdf)
    for path in written:
        print(_short(path))
    return 1 if faults else 0


def _executed(notebooks: list[Path], source: Path, *, all_of_them: bool) -> list[Path]:
    """Return the executed copies in a folder: of all notebooks that were chosen by name, else those that are there."""
    copies = [source / path.name for path in notebooks]
    missing = [path for path in copies if not path.is_file()]
    if missing and (all_of_them or len(missing) == len(copies)):
        raise FileNotFoundError(f"{missing[0]} is not there; run the notebook with --out {source} first")
    return [path for path in copies if path not in missing]


def _sound(notebooks: list[Path]) -> list[Path]:
    """Return the notebooks that can be rendered, and say of each other one what is wrong."""
    from tempfile import TemporaryDirectory

    from nbutils.notebook import render

    sound = []
    for path in notebooks:
        try:
            with TemporaryDirectory() as scratch:
                render.render_all([path], Path(scratch))
            sound.append(path)
        except Exception as error:
            _complain(_message(error, path))
    return sound


def _update(options: argparse.Namespace) -> int:
    from nbutils.notebook import execute

    failures = 0
    # An index shows what the others recorded, so it comes last.
    for path in sorted(layout.notebooks(*options.notebooks), key=lambda path: path.stem.startswith("00")):
        try:
            changes = execute.update(path)
        except Exception as error:  # whatever it is, it is this notebook's, and the others go on
            failures += 1
            see = f", see {_short(error.copy)}" if isinstance(error, execute.CellFailure) else ""
            _complain(f"{_message(error, path)}; nothing was changed{see}")
            continue
        print(f"{path.stem}   {_verdict(layout.root() / 'large-assets' / path.stem)}   {len(changes)} changed")
        for line in changes:
            print(f"  {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
