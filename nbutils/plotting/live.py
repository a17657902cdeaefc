"""Figures that move under the hand: one plain JavaScript module, at home in JupyterLab and on a page of the supplement.

A module of a study, such as

    export default { render({ model, el }) { const view = liveView({ model, el }); ...; return view.end; } };

stands behind `live.js`, which gives it `liveView`: controls, canvases, the state and its words, keyboard, themes. In
JupyterLab anywidget runs the two; on a page they stand inline, with their data beside them, and the address holds the
state. Without scripts, and wherever a notebook is only looked at, the static picture stands in its place.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from nbutils import layout
from nbutils.plotting.theme import DARK, LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIVE = "application/vnd.nbutils.live+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MAX_LIVE_BYTES = 500_000
COMMON = Path(__file__).with_name("live.js")
STYLE = Path(__file__).with_name("live.css")
_KINDS = ("float32", "float64", "uint8", "int32")  # what `live.js` unpacks


@dataclass(frozen=True)
class LiveFigure:
    """A figure to move; display it with `nbutils.show`, which takes alt text, caption and data as for any other.

    Attributes:
        script: the module, a file below `notebooks`.
        data: what it draws: JSON values, and arrays of float32, float64, uint8 or int32, which `view.data` holds as
            typed arrays with a `shape`. Others are to be cast.
        static: draws the first view, as matplotlib figure.
        about: one line for a reader who has not seen it: what it shows, and what to try.

    Raises:
        FileNotFoundError: there is no such module below `notebooks`.
        ValueError: the module has not one `export default`, imports something, or holds what ends an inline script;
            `about` is empty.
        TypeError: `data` holds something else.
    """

    script: str | Path
    data: Mapping[str, Any]
    static: Callable[[], Figure]
    about: str
    _shown: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.about.strip():
            raise ValueError("a live figure needs a line that says what it shows and what to try")
        object.__setattr__(self, "about", " ".join(self.about.split()))
        object.__setattr__(self, "script", relative(self.script))
        object.__setattr__(self, "data", packed(self.data))
        module(str(self.script))

    def stored(self, label: str) -> bytes:
        """Return what a page needs beside the module, as JSON."""
        parts = {"script": self.script, "about": self.about, "label": label, "data": self.data, "theme": _theme()}
        return (json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n").encode()

    @property
    def state(self) -> dict[str, Any]:
        """What the reader has changed of the first view, where the figure was shown last."""
        return dict(self._shown[-1].state) if self._shown else {}

    def move(self, **changes: Any) -> None:
        """Move the figure where it was shown last, as the reader would.

        The figure itself knows its names and values: `state`, in a later cell, is without those that it does not have.

        Raises:
            RuntimeError: it is shown nowhere.
        """
        if not self._shown:
            raise RuntimeError("the figure is shown nowhere; show it first")
        self._shown[-1].state = self.state | changes

    def widget(self, label: str) -> Any:
        """Return the figure as a widget of JupyterLab, whose state `state` tells."""
        self._shown[:] = [self._widget(label)]
        return self._shown[0]

    def _widget(self, label: str) -> Any:
        return _widget_class()(
            _esm=module(str(self.script)),
            _css=STYLE.read_text(encoding="utf-8"),
            data=self.data,
            theme=_theme(),
            about=self.about,
            label=label,
        )


def relative(script: str | Path) -> str:
    """Return a module's path in the project, with slashes.

    Raises:
        FileNotFoundError: there is no such JavaScript file below `notebooks`, where what is committed lies.
    """
    root = layout.root()
    path = (root / script).resolve()
    if path.suffix != ".js" or not path.is_relative_to(root / "notebooks") or not path.is_file():
        raise FileNotFoundError(f"no JavaScript file {script} in {root / 'notebooks'}")
    return PurePosixPath(path.relative_to(root)).as_posix()


def module(script: str) -> str:
    """Return a module behind the part that all live figures have in common.

    Raises:
        FileNotFoundError: there is no such module below `notebooks`.
        ValueError: it has not one `export default`, imports something, or holds what ends an inline script.
    """
    text = (layout.root() / relative(script)).read_text(encoding="utf-8")
    if len(re.findall(r"^export default\b", text, re.MULTILINE)) != 1 or re.search(r"\bimport\b", text):
        raise ValueError(
            f"{script} must have one line that begins with 'export default', and import nothing: "
            "not even a comment has that word"
        )
    if found := re.search("</script|<!--", text, re.IGNORECASE):
        raise ValueError(f"{script} holds {found[0]!r}, which ends or hides a script that stands on a page; split it")
    return COMMON.read_text(encoding="utf-8") + text


def on_page(script: str, host: str) -> str:
    """Return a module as an inline `<script type="module">` has it: `host`, JavaScript with `mountLive`, mounts it.

    Raises: as for `module`.
    """
    text = re.sub(r"^export default\b", "const liveModule =", module(script), count=1, flags=re.MULTILINE)
    return f"{text}{host}mountLive({json.dumps(script)}, liveModule);\n"


def parts_of(stored: bytes) -> dict[str, Any]:
    """Return what `LiveFigure.stored` wrote.

    Raises:
        ValueError: it is something else, or its module is not there.
    """
    try:
        parts = json.loads(stored, parse_constant=lambda name: _unreadable(f"{name} is no JSON"))
        if not isinstance(parts, dict) or not {"script", "about", "label", "data", "theme"} <= parts.keys():
            _unreadable("it is no live figure")
        return parts | {"script": relative(str(parts["script"]))}
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _unreadable(why: str) -> NoReturn:
    raise ValueError(why)


def packed(value: Any, where: str = "data") -> Any:
    """Return data as JSON values, arrays and tensors as `{"dtype", "shape", "base64"}`, little-endian.

    Raises:
        TypeError: it holds something else, such as an array of another kind; the message says where.
    """
    if hasattr(value, "numpy"):  # a tensor
        value = value.numpy(force=True)
    if isinstance(value, np.ndarray):
        if value.dtype.name not in _KINDS:
            raise TypeError(f"{where}: expected an array of {', '.join(_KINDS)}, got {value.dtype}")
        content = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        return {"dtype": value.dtype.name, "shape": list(value.shape), "base64": b64encode(content).decode()}
    if isinstance(value, Mapping):
        if "base64" in value and value.keys() != {"dtype", "shape", "base64"}:
            raise TypeError(f"{where}: 'base64' is the name of an array's bytes; choose another")
        return {str(key): packed(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [packed(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and np.isfinite(value)):
        return value
    raise TypeError(f"{where}: a live figure's data are JSON values and arrays, got {value!r}")


def _theme() -> dict[str, Any]:
    return {
        theme.name: {"ink": theme.ink, "paper": theme.paper, "muted": theme.muted, "accents": list(theme.accents)}
        for theme in (LIGHT, DARK)
    }


@lru_cache(maxsize=1)
def _widget_class() -> type:
    import traitlets
    from anywidget import AnyWidget

    class LiveWidget(AnyWidget):
        _esm = traitlets.Unicode().tag(sync=True)
        _css = traitlets.Unicode().tag(sync=True)
        data = traitlets.Dict().tag(sync=True)
        theme = traitlets.Dict().tag(sync=True)
        state = traitlets.Dict().tag(sync=True)
        about = traitlets.Unicode().tag(sync=True)
        label = traitlets.Unicode().tag(sync=True)

    return LiveWidget
