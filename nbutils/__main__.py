"""The command line: `python -m nbutils list | doctor | run | record | test | render | update`."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from nbutils import __version__, claims, devices, layout

LITERALS = {"true": True, "false": False, "null": None, "none": None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 where a notebook or test failed, 2 where the command cannot be carried out.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, KeyError, OSError, ModuleNotFoundError) as error:
        # KeyError's own text is the repr of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"nbutils: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nbutils: interrupted", file=sys.stderr)
        return 130


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
        help="set a parameter; a value that names an existing file is taken from the current folder",
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: build/run)")
    record = add("record", _record, "Keep a long run in large-assets/: on real data, or in the full profile.")
    record.add_argument("--source", type=Path, required=True, metavar="DIR", help="where `run --out` wrote to")
    add("test", _test, "Run the tests, then compare the notebooks with their stored outputs.", chooses=False)
    render = add("render", _render, "Write the supplement: one offline HTML page per notebook, and an index.")
    render.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: build/html)")
    render.add_argument(
        "--source", type=Path, metavar="DIR", help="folder of executed copies (default: the committed notebooks)"
    )
    render.add_argument("--pdf", action="store_true", help="write PDF as well")
    add("update", _update, "Execute notebooks in place, normalised, and print what changed.")
    return parser


def _list(options: argparse.Namespace) -> int:
    for path in layout.notebooks(*options.notebooks):
        title, runtime = _headline(path)
        print(f"{title}   [{', '.join(part for part in (runtime, _verdict(layout.assets(path.stem))) if part)}]")
    return 0


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
    base = os.environ.get(sources.DATA_VARIABLE)
    where = f"${sources.DATA_VARIABLE} is {base}" if base else f"${sources.DATA_VARIABLE} is not set"
    print(f"data         {where}; embedded data is always there")
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
    from nbutils import progress
    from nbutils.notebook import execute, record

    chosen = layout.notebooks(*options.notebooks)
    if not chosen:
        raise FileNotFoundError(f"there are no notebooks in {layout.root() / 'notebooks'}")
    given = dict(_parameter(text) for text in options.parameters)
    choices = {"PROFILE": options.profile, "DATA": options.data}
    plans = []
    for path in chosen:  # everything is checked before anything runs
        execute.check_parameters(path, given)
        known = execute.parameter_names(path)
        # An index has no profile: a choice for all applies where it can.
        plans.append((path, {k: v for k, v in choices.items() if v is not None and k in known} | given))

    out = (options.out or layout.root() / "build" / "run").resolve()
    failures = 0
    with progress.bar(len(plans), "notebooks") as bar:
        for path, parameters in plans:
            start = time.perf_counter()
            try:
                copy, problem = execute.run(path, out, parameters), None
            except execute.CellFailure as failure:
                copy, problem, failures = failure.copy, failure, failures + 1
            seconds = time.perf_counter() - start
            record.note_run(out / path.stem, _command(path, parameters), date.today().isoformat(), seconds)
            line = f"{path.stem}   {seconds:.1f} s   {_verdict(out / path.stem)}   {_short(copy)}"
            bar.write(f"{line}   FAILED" if problem else line, file=sys.stdout)
            if problem:
                bar.write(f"nbutils: {problem}", file=sys.stderr)
            bar.update()
    return 1 if failures else 0


def _command(notebook: Path, parameters: dict[str, Any]) -> str:
    """Return the command for the same run; files by their names, because their folders are the reader's own."""
    words = ["python -m nbutils run", notebook.stem.split("-")[0]]
    for name, value in parameters.items():
        if name in ("PROFILE", "DATA"):
            words.append(f"--{name.lower()} {value}")
        elif name != "RUNS":  # where a run keeps what is finished changes nothing of it
            words.append(f"-p {name}={Path(value).name if isinstance(value, str) else value}")
    return " ".join(words)


def _record(options: argparse.Namespace) -> int:
    from nbutils.notebook import record

    for path in layout.notebooks(*options.notebooks):
        for written in record.record(path, options.source):
            print(_short(written))
    return 0


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"-p takes NAME=VALUE, got {text!r}")
    return name, _value(value)


def _value(text: str) -> Any:
    """Read a parameter's value: a number, truth value, null or bracketed list as such, anything else as text.

    The name of an existing file becomes absolute, because the kernel runs in another folder.
    """
    if text.lower() in LITERALS:
        return LITERALS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(value, tuple) and not text.startswith("("):
        value = text  # 0,4,8 without brackets: the notebook splits it
    if isinstance(value, str) and Path(value).suffix and Path(value).is_file():
        return str(Path(value).resolve())
    return value


def _short(path: Path) -> str:
    """Return a path as seen from the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _test(options: argparse.Namespace) -> int:
    root = layout.root()
    pytest = [sys.executable, "-m", "pytest", "-n", "2", "--dist"]
    compare = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "540"]  # below the limit for a test
    commands = [[*pytest, "loadfile", "tests"]]  # one process runs notebooks in the browser, the other the rest
    if layout.notebooks():
        commands.append([*pytest, "loadscope", *compare, "notebooks"])
    codes = [subprocess.run(command, cwd=root).returncode for command in commands]  # both, whatever the first says
    return 1 if any(codes) else 0


def _render(options: argparse.Namespace) -> int:
    from nbutils.notebook import render

    out = (options.out or layout.root() / "build" / "html").resolve()
    chosen = layout.notebooks(*options.notebooks)
    if options.source:
        chosen = [options.source / path.name for path in chosen]
        if missing := [path for path in chosen if not path.is_file()]:
            raise FileNotFoundError(f"{missing[0]} is not there; run the notebook with --out {options.source} first")
    for path in render.render_all(chosen, out, pdf=options.pdf):
        print(_short(path))
    return 0


def _update(options: argparse.Namespace) -> int:
    from nbutils.notebook import execute

    failures = 0
    # An index shows what the others recorded, so it comes last.
    for path in sorted(layout.notebooks(*options.notebooks), key=lambda path: path.stem.startswith("00")):
        try:
            changes = execute.update(path)
        except execute.CellFailure as failure:
            failures += 1
            print(f"nbutils: {failure}; nothing was changed, see {_short(failure.copy)}", file=sys.stderr)
            continue
        print(f"{path.stem}   {_verdict(layout.root() / 'large-assets' / path.stem)}   {len(changes)} changed")
        for line in changes:
            print(f"  {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
