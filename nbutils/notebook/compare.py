"""Compare the outputs of a notebook with the stored ones: what makes a stored notebook an oracle.

The comparison is strict about everything that means something and tolerant about noise. Floats agree within
a tolerance; integers and words agree exactly; pictures, memory addresses and random identifiers are not
compared. `notebooks/conftest.py` puts it in the place of nbval's own comparison, which fails on noise of 1e-7
and passes a stripped notebook.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbutils.notebook.document import LIVE, SKIPPED_TAG, WIDGET_VIEW, tags


@dataclass(frozen=True)
class Tolerance:
    """How far a computed float may lie from the stored one: `atol + rtol * |stored|`."""

    rtol: float = 2e-4
    atol: float = 1e-9

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> Tolerance:
        """Return a cell's tolerance: its metadata `{"nbutils": {"rtol": .., "atol": ..}}`, else the default.

        Raises:
            ValueError: a tolerance that is not a finite number of at least zero.
        """
        own = cell.get("metadata", {}).get("nbutils", {})
        given = {key: own[key] for key in ("rtol", "atol") if key in own}
        for key, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"cell metadata nbutils.{key}: expected a finite number >= 0, got {value!r}")
        return cls(**given)

    def allowed(self, stored: float) -> float:
        """Return the greatest accepted distance from a stored value."""
        return self.atol + self.rtol * abs(stored)

    def close(self, stored: float, computed: float) -> bool:
        """Tell whether two numbers agree; nan agrees with nan, an infinity with itself."""
        if stored == computed or (math.isnan(stored) and math.isnan(computed)):
            return True
        if not (math.isfinite(stored) and math.isfinite(computed)):
            return False
        return abs(stored - computed) <= self.allowed(stored)


DATA_URI = r"\bdata:[\w.+-]+/[\w.+-]+(?:;[\w=-]+)*;base64,[A-Za-z0-9+/=]+"

# Order matters: what is masked comes first, then numbers, then words. A sign belongs to a number unless
# something that can be subtracted from stands before it. "3." is a whole number, because prose ends sentences
# that way. An exponent must end the token, so that a hash such as 3e45ab is not read as a float.
_TOKEN = re.compile(
    rf"""
    (?P<masked>  \b0x[0-9a-f]{{4,}} | {DATA_URI} )
  | (?P<colour>  \#[0-9a-f]{{6}}\b | \brgba?\([^()]*\) )
  | (?P<version> \d+(?:\.\d+){{2,}}\w* )
  | (?P<number>  (?:(?<![\w.)\]])[+\-−])?
                 (?: (?: \d+\.?\d* | \.\d+ ) (?: [eE][+\-]?\d+ (?!\w) )? | (?:nan|inf|infinity)\b ) )
  | (?P<word>    [^\W\d]\w* )
  | (?P<rule>    (?P<stroke>[-=─_])(?P=stroke){{2,}} )
  | (?P<space>   \s+ )
  | (?P<sign>    . )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_RANDOM_NAMES = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|(?<![A-Za-z0-9])T_[0-9a-f]{5}(?![0-9a-f])"
)
_FLOAT = re.compile(r"\.\d|[eE]|nan|inf", re.IGNORECASE)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int

    @property
    def value(self) -> float:
        return float(self.text.replace("−", "-"))

    @property
    def is_float(self) -> bool:
        return self.kind == "number" and _FLOAT.search(self.text) is not None


def _tokens(text: str) -> list[_Token]:
    return [_Token(str(match.lastgroup), match.group(), match.start()) for match in _TOKEN.finditer(text)]


def _same_colour(stored: str, computed: str) -> bool:
    """Tell whether two colours are one rounding step of a channel apart: they are rounded floats."""

    def channels(text: str) -> list[float]:
        if text.startswith("#"):
            return [int(text[i : i + 2], 16) for i in (1, 3, 5)]
        return [float(part) for part in re.findall(r"[\d.]+", text)]

    a, b = channels(stored), channels(computed)
    return len(a) == len(b) and all(abs(x - y) <= 1 for x, y in zip(a, b, strict=True))


def _off_by(stored: float, computed: float, tolerance: Tolerance) -> str:
    return (
        f"off by {abs(stored - computed):.3g}, allowed {tolerance.allowed(stored):.3g} "
        f"(rtol {tolerance.rtol:g}, atol {tolerance.atol:g})"
    )


def _same_token(stored: _Token, computed: _Token, tolerance: Tolerance, markup: bool) -> str | None:
    """Return None where two tokens agree, else why they do not."""
    if stored.kind == computed.kind == "number" and (stored.is_float or computed.is_float):
        if tolerance.close(stored.value, computed.value):
            return None
        return _off_by(stored.value, computed.value, tolerance)
    if stored.text == computed.text or stored.kind == computed.kind == "masked":
        return None
    if stored.kind == computed.kind == "rule" and stored.text[0] == computed.text[0]:
        return None  # its length is layout
    if markup and stored.kind == computed.kind == "colour" and _same_colour(stored.text, computed.text):
        return None
    return "whole numbers compare exactly" if stored.kind == computed.kind == "number" else "text compares exactly"


def compare_text(stored: str, computed: str, tolerance: Tolerance, *, markup: bool = False) -> str | None:
    """Compare two texts token by token.

    White space and rules of dashes compare exactly, unless a number was printed in a different width: then
    they are padding, which follows from the numbers.

    Args:
        stored: text of the stored output.
        computed: text of the new output.
        tolerance: for the floats.
        markup: HTML, where random identifiers are not compared and colours may differ by one step per channel.

    Returns:
        None where they agree, else one line that shows the first difference.
    """
    if markup:
        stored, computed = (_RANDOM_NAMES.sub("ID", text) for text in (stored, computed))
    everything = _tokens(stored), _tokens(computed)
    solid = [[token for token in tokens if token.kind != "space"] for tokens in everything]
    for a, b in zip(*solid, strict=False):
        why = _same_token(a, b, tolerance, markup)
        if why:
            where = stored[max(0, a.start - 40) : a.start].rsplit("\n", 1)[-1]
            return f"stored {a.text!r}, computed {b.text!r}, after {where!r}: {why}"
    if len(solid[0]) != len(solid[1]):
        shorter = min(map(len, solid))
        rest = max(solid, key=len)[shorter]
        which = "stored" if len(solid[0]) > shorter else "computed"
        return f"only the {which} text goes on, with {rest.text!r} after {shorter} tokens"
    numbers = [[len(token.text) for token in tokens if token.kind == "number"] for tokens in solid]
    if numbers[0] == numbers[1]:
        layouts = [[t.text for t in tokens if t.kind in ("space", "rule")] for tokens in everything]
        spaced = [[t.kind == "space" for t in tokens] for tokens in everything]
        if layouts[0] != layouts[1] or spaced[0] != spaced[1]:
            return "stored and computed text differ in white space only, with all numbers of the same width"
    return None


def _plain(value: Any) -> Any:
    """Decode plotly's typed arrays (`{"dtype", "bdata"[, "shape"]}`) to nested lists; leave the rest."""
    if isinstance(value, Mapping) and "bdata" in value and "dtype" in value:
        import numpy as np

        array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]).newbyteorder("<"))
        shape = value.get("shape")
        if shape is not None:
            array = array.reshape([int(part) for part in str(shape).split(",")])
        return array.tolist()
    return value


def compare_json(stored: Any, computed: Any, tolerance: Tolerance, *, path: str = "") -> str | None:
    """Compare two JSON values: same keys and lengths, floats within the tolerance, everything else exactly.

    Returns:
        None where they agree, else one line with the path of the first difference.
    """
    stored, computed = _plain(stored), _plain(computed)
    here = path or "the value"
    if isinstance(stored, Mapping) and isinstance(computed, Mapping):
        if stored.keys() != computed.keys():
            names = ", ".join(sorted(map(str, stored.keys() ^ computed.keys())))
            return f"{here}: keys on one side only: {names}"
        pairs = [(f"{path}.{key}".lstrip("."), stored[key], computed[key]) for key in stored]
    elif isinstance(stored, list) and isinstance(computed, list):
        if len(stored) != len(computed):
            return f"{here}: stored {len(stored)} elements, computed {len(computed)}"
        pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(stored, computed, strict=True))]
    elif isinstance(stored, str) and isinstance(computed, str):
        why = compare_text(stored, computed, tolerance, markup=True)
        return f"{here}: {why}" if why else None
    else:
        numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (stored, computed)]
        if all(numbers) and isinstance(stored, int) and isinstance(computed, int):
            agree, why = stored == computed, "whole numbers compare exactly"
        elif all(numbers):
            agree, why = tolerance.close(stored, computed), _off_by(stored, computed, tolerance)
        else:
            agree, why = type(stored) is type(computed) and stored == computed, "values compare exactly"
        return None if agree else f"{here}: stored {stored!r}, computed {computed!r}: {why}"
    return next((why for name, a, b in pairs if (why := compare_json(a, b, tolerance, path=name))), None)


def _compared(outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the outputs that count: no stderr, consecutive pieces of a stream merged."""
    kept: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream":
            if output["name"] == "stderr":
                continue
            if kept and kept[-1]["output_type"] == "stream" and kept[-1]["name"] == output["name"]:
                kept[-1]["text"] += output["text"]
                continue
            kept.append({"output_type": "stream", "name": output["name"], "text": output["text"]})
        else:
            kept.append(dict(output))
    return kept


def _compare_bundle(stored: Mapping[str, Any], computed: Mapping[str, Any], tolerance: Tolerance) -> str | None:
    optional = {WIDGET_VIEW} if LIVE in stored and LIVE in computed else set()  # it lives as long as its kernel
    mimes = set(stored) - optional
    if mimes != set(computed) - optional:
        return f"stored types {', '.join(sorted(stored))}; computed types {', '.join(sorted(computed))}"
    if WIDGET_VIEW in mimes:
        return None  # model identifiers are random and its text is their repr
    for mime in sorted(mimes):
        if mime.startswith("image/") or mime == "application/pdf":
            continue  # figures are tested through the data they plot
        if mime.endswith("json"):
            why = compare_json(stored[mime], computed[mime], tolerance)
        else:
            markup = mime in ("text/html", "text/markdown")
            why = compare_text(stored[mime], computed[mime], tolerance, markup=markup)
        if why:
            return f"{mime}: {why}"
    return None


def compare_outputs(
    stored: Sequence[Mapping[str, Any]],
    computed: Sequence[Mapping[str, Any]],
    tolerance: Tolerance | None = None,
) -> str | None:
    """Compare the outputs of one cell.

    Args:
        stored: outputs as nbformat reads them, each text in one piece.
        computed: outputs of the new run, in the same form.
        tolerance: for the floats; the default where None.

    Returns:
        None where they agree, else one line that shows the first difference.
    """
    tolerance = tolerance or Tolerance()
    left, right = _compared(stored), _compared(computed)
    for i, (a, b) in enumerate(zip(left, right, strict=False), start=1):
        kinds = [output["output_type"] for output in (a, b)]
        if kinds[0] != kinds[1]:
            return f"output {i}: stored {kinds[0]}, computed {kinds[1]}"
        if kinds[0] == "stream":
            why = compare_text(a["text"], b["text"], tolerance)
        elif kinds[0] == "error":
            stored_error, error = (f"{output['ename']}: {output['evalue']}" for output in (a, b))
            why = compare_text(stored_error, error, tolerance)
        else:
            why = _compare_bundle(a["data"], b["data"], tolerance)
        if why:
            return f"output {i}, {a.get('name', kinds[0])}: {why}"
    if len(left) != len(right):
        return f"stored {len(left)} outputs, computed {len(right)}"
    return None


def stored_fault(cell: Mapping[str, Any]) -> str | None:
    """Return why a stored code cell cannot serve as a reference, or None where it can.

    A cell that was never executed would pass any comparison, so it counts as a failure.
    """
    if not cell["source"].strip() or SKIPPED_TAG in tags(cell):
        return None
    if cell.get("execution_count") is None:
        return "the stored cell was never executed, so there is nothing to compare with: run and save it"
    if "raises-exception" not in cell.get("metadata", {}).get("tags", ()):
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                return f"the stored output is an error: {output['ename']}: {output['evalue']}"
    return None
