"""Claims: statements of the prose with a number, checked where they are made and kept in `results.json`.

A notebook calls `begin` once, `check` for every claim, `hypothesis` for what it set out to find, `metric` for numbers
it reports without claiming anything, and `save` at the end.
"""

from __future__ import annotations

import json
import math
import operator
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from nbutils import __version__, atomic, layout

KEPT_DIGITS = 6  # significant digits stored: finer than any tolerance, coarser than floating-point noise


class ClaimError(AssertionError):
    """A claim does not hold."""


@dataclass
class Results:
    """The results of one notebook run: claims, metrics, and their provenance."""

    stem: str
    profile: str
    source: str
    versions: dict[str, str]
    device: str = "cpu"
    claims: dict[str, dict[str, float | bool | None]] = field(default_factory=dict)
    metrics: dict[str, float | int | None] = field(default_factory=dict)
    hypotheses: dict[str, dict[str, Any]] = field(default_factory=dict)


_results: Results | None = None


def begin(stem: str, *, profile: str, source: str, device: str = "cpu") -> None:
    """Start the results of one notebook run; claims and metrics of an earlier one are forgotten.

    Args:
        stem: the notebook's stem, e.g. `"01-color-cube"`.
        profile: the scale of the run, e.g. `"quick"`.
        source: where the data came from, e.g. `"embedded digits"`.
        device: what networks were trained and measured on.

    Raises:
        ValueError: no stem, or that of another notebook than the one that runs; or something that is no text.
    """
    global _results
    if not stem or Path(stem).name != stem:
        raise ValueError(f"stem must be a notebook's name without folder or suffix, got {stem!r}")
    if not all(isinstance(text, str) for text in (profile, source, device)):
        raise ValueError(f"profile, source and device are text, got {profile!r}, {source!r} and {device!r}")
    layout.expect_own(stem)
    _results = Results(stem, profile, source, _versions(), device)


def stem() -> str:
    """Return the stem given to `begin`.

    Raises:
        ValueError: `begin` was not called.
    """
    return _current().stem


def source() -> str | None:
    """Return the data source given to `begin`; None before it."""
    return _results.source if _results else None


def check(
    name: str,
    value: SupportsFloat,
    *,
    expect: float | None = None,
    atol: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Keep a claim, print it as one line, and raise if it does not hold.

    Exactly one form is given: `expect` with `atol`, or a bound (`at_least`, `at_most`, or both). Bounds are
    inclusive. A value that is not finite never holds. Checking a name again replaces its earlier claim.

    Args:
        name: the claim's key in `results.json`.
        value: the measured number.
        expect: the number the prose states.
        atol: how far `value` may lie from it: the spread over seeds and machines, not rounding noise.
        at_least: the smallest value for which the claim holds.
        at_most: the largest value for which the claim holds.

    Raises:
        ClaimError: the claim does not hold; `results.json` is written first and names it.
        ValueError: no form, two forms, half a form, or `begin` was not called.

    >>> import nbutils as nb
    >>> session = nb.begin("01-color-cube", profile="quick", data="embedded", seeds=1, processes=1)
    >>> session.reads("a formula")
    >>> nb.check("r", 0.93, expect=0.931, atol=0.034)
    holds   r = 0.93   expected 0.931 ± 0.034
    """
    results = _current()
    limits = _limits(name, {"expect": expect, "atol": atol, "at_least": at_least, "at_most": at_most})
    number = float(value)
    if "expect" in limits:
        within = abs(number - limits["expect"]) <= limits["atol"]
        expected = f"{limits['expect']:g} ± {limits['atol']:g}"
    else:
        low, high = limits.get("at_least", -math.inf), limits.get("at_most", math.inf)
        within = low <= number <= high
        bounds = [f"≥ {low:g}"] * ("at_least" in limits) + [f"≤ {high:g}"] * ("at_most" in limits)
        expected = " and ".join(bounds)
    holds = math.isfinite(number) and within

    results.claims[name] = {"value": _kept(number), **limits, "holds": holds}
    line = f"{name} = {number:.4g}   expected {expected}"
    print(f"{'holds' if holds else 'fails'}   {line}")
    if not holds:
        save()
        raise ClaimError(line)


def _limits(name: str, given: Mapping[str, float | None]) -> dict[str, float]:
    """Return the limits of a claim that are given; raise a ValueError unless they are one form and can be met."""
    if not isinstance(name, str) or not name.isprintable() or not name.strip():
        raise ValueError(f"a claim needs a name on one line, got {name!r}")
    limits = {key: float(limit) for key, limit in given.items() if limit is not None}
    if set(limits) not in ({"expect", "atol"}, {"at_least"}, {"at_most"}, {"at_least", "at_most"}):
        raise ValueError(
            f"claim {name!r} takes expect and atol, or at_least and/or at_most, "
            f"got {' and '.join(limits) or 'none of them'}"
        )
    if not all(map(math.isfinite, limits.values())) or limits.get("atol", 0.0) < 0:
        raise ValueError(f"claim {name!r} needs finite limits and atol of at least 0, got {limits}")
    low, high = limits.get("at_least", -math.inf), limits.get("at_most", math.inf)
    if low > high:
        raise ValueError(f"claim {name!r} cannot hold: at_least {low:g} lies above at_most {high:g}")
    return limits


VERDICTS = {True: "confirmed", False: "disconfirmed", None: "undecided"}


def hypothesis(name: str, holds: bool | None, found: str) -> None:
    """Keep what came of a hypothesis, and print it as one line. One that falls is a finding: nothing is raised.

    A claim (`check`) says that a number came back; a hypothesis, what was expected before the first run. They are
    counted apart. Keeping a name again replaces its earlier outcome.

    Args:
        name: the hypothesis in a few words, with its label, e.g. `"C2, the attack ends with one unit"`.
        holds: whether the rule that was fixed beforehand confirms it; None where the data cannot tell.
        found: what came out, with its number.

    Raises:
        ValueError: a name or finding that is no line of text, or `begin` was not called.
        TypeError: `holds` is neither a truth value nor None.

    >>> import nbutils as nb
    >>> session = nb.begin("01-color-cube", profile="quick", data="embedded", seeds=1, processes=1)
    >>> session.reads("a formula")
    >>> nb.hypothesis("H1, only red is deleted", False, "1.9 % of the damage is elsewhere")
    disconfirmed   H1, only red is deleted: 1.9 % of the damage is elsewhere
    """
    results = _current()
    for text in (name, found):
        if not isinstance(text, str) or not text.isprintable() or not text.strip():
            raise ValueError(f"a hypothesis needs a name and a finding, each on one line; got {text!r}")
    if type(holds).__name__ in ("bool", "bool_"):  # numpy's, too
        holds = bool(holds)
    elif holds is not None:
        raise TypeError(f"hypothesis {name!r} holds (True), falls (False) or stays open (None); got {holds!r}")
    results.hypotheses[name] = {"holds": holds, "found": found}
    print(f"{VERDICTS[holds]}   {name}: {found}")


def metric(**values: SupportsFloat) -> None:
    """Keep numbers under their names; whole numbers stay whole, values that are not finite become null.

    >>> import nbutils as nb
    >>> session = nb.begin("01-color-cube", profile="quick", data="embedded", seeds=1, processes=1)
    >>> session.reads("a formula")
    >>> nb.metric(seeds=100, r_mean=0.931)
    """
    results = _current()
    for name, value in values.items():
        whole = None
        if isinstance(value, SupportsIndex):  # int, and integer scalars of numpy and torch
            with suppress(TypeError):  # a torch scalar that is no integer has the method all the same
                whole = operator.index(value)
        results.metrics[name] = _kept(float(value)) if whole is None else whole


def save(path: Path | None = None) -> Path:
    """Write the results atomically.

    Args:
        path: where; `results.json` in the notebook's assets folder when not given.

    Returns:
        The path written.
    """
    results = _current()
    path = path or layout.assets(results.stem) / "results.json"
    return atomic.write(path, json.dumps(vars(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load(path: Path) -> Results:
    """Read results and check their form.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, or no results; the message names the file and the first defect.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bytes that are no text, text that is no JSON, a number too long
        raise ValueError(f"{path} is not JSON: {error}") from None
    defect = _defect(content)
    if defect:
        raise ValueError(f"{path} does not hold results of a notebook: {defect}")
    return Results(**{key: content[key] for key in Results.__dataclass_fields__ if key in content})


def _current() -> Results:
    if _results is None:
        raise ValueError("no results are open; call claims.begin(stem, profile=..., source=...) first")
    return _results


def _kept(number: float) -> float | None:
    return float(f"{number:.{KEPT_DIGITS}g}") if math.isfinite(number) else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "nbutils": __version__}
    for package in ("torch", "torchvision", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # results need no torch; what is absent is not listed
            continue
    return found


def _defect(content: object) -> str | None:
    if not isinstance(content, Mapping):
        return f"expected an object, got {type(content).__name__}"
    for key in ("stem", "profile", "source"):
        if not isinstance(content.get(key), str):
            return f"{key!r} must be text, got {content.get(key)!r}"
    if not isinstance(content.get("device", "cpu"), str):
        return f"'device' must be text, got {content['device']!r}"
    for key in ("versions", "claims", "metrics", "hypotheses"):
        if not isinstance(content.get(key, {} if key == "hypotheses" else None), Mapping):
            return f"{key!r} must be an object, got {content.get(key)!r}"
    for name, claim in content["claims"].items():
        if not isinstance(claim, Mapping) or not isinstance(claim.get("holds"), bool) or "value" not in claim:
            return f"claim {name!r} must have 'value' and a true or false 'holds', got {claim!r}"
        if not _is_number(claim["value"]):
            return f"claim {name!r} must have a number as 'value', got {claim['value']!r}"
    for name, outcome in content.get("hypotheses", {}).items():
        if not isinstance(outcome, Mapping) or outcome.get("holds", "") not in (True, False, None):
            return f"hypothesis {name!r} must have 'holds', true, false or null, got {outcome!r}"
    for name, value in content["metrics"].items():
        if not _is_number(value):
            return f"metric {name!r} must be a number, got {value!r}"
    return None


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
