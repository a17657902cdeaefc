"""Show a figure so that everyone can use it: light and dark files, a description, a manifest entry.

How the description travels. A figure is displayed as `image/png` whose metadata is
`{"image/png": {"alt": ..., "width": ...}}` and whose `text/plain` is the same description. JupyterLab honours
`width` but not `alt`: its image renderer makes an `<img>` without one. Templates of nbconvert honour `alt`
where they ask for it (`classic` does, `lab` does not). So a second, small output follows: a closed
`<details>` element of class `figure-description` that holds the description, passes JupyterLab's sanitiser,
is read by screen readers, and lets nbval compare the words; a caption stands above it. The image bytes stay
in `image/png`, which nbval never compares; an `<img>` in `text/html` would keep its alt text everywhere but
put those bytes into a compared output.

A plotly figure is displayed as plotly's JSON beside the picture of its twin, which matplotlib draws: GitHub, print
and a page without scripts show that one. Plotly's own pictures would need a browser, and differ from one to the next.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import sys
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from nbutils import atomic, claims, layout
from nbutils.plotting import texts
from nbutils.plotting import theme as themes
from nbutils.plotting.live import LIVE, MAX_LIVE_BYTES, WIDGET_VIEW, LiveFigure
from nbutils.plotting.manifests import files_of, manifest_of
from nbutils.plotting.theme import DARK, LIGHT, Theme

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from matplotlib.figure import Figure
    from PIL import Image

PLOTLY = "application/vnd.plotly.v1+json"
PIXELS_PER_INCH = 120  # of the files
SCREEN_PIXELS_PER_INCH = 96  # of CSS: a figure is shown at its size in inches
COLOURS = 256  # one byte per pixel
VISIBLE_SHIFT = 8  # of 255, in the worst channel
COMFORTABLE_BYTES = 60_000
MAX_BYTES = 300_000

_widgets: dict[tuple[str, str], Any] = {}  # of the live figures, by cell and name
_entering = Lock()  # an entry is added to what the file holds


def show(
    fig: Callable[[], Figure | go.Figure] | Figure | go.Figure | LiveFigure,
    name: str,
    /,
    alt: str | None = None,
    *,
    twin: Callable[[], Figure] | Figure | None = None,
    caption: str | None = None,
    data: pd.DataFrame | None = None,
    stem: str | None = None,
    width: int | None = None,
    **values: object,
) -> None:
    """Write a figure in both themes, enter it into the manifest, and display it with its description.

    The supplement numbers it, prints the caption below it, and offers the data for download.

    Args:
        fig: a function without arguments that draws and returns the figure (called under `LIGHT`, then under
            `DARK`), or a finished figure, which is recoloured for the dark file; or a `LiveFigure`, which moves in
            JupyterLab and on the page and leaves its first view as the picture.
        name: file name without suffix: lower-case letters, digits, hyphens and underscores. Without `alt` it is an
            entry of the notebook's `figures.toml`, which may have places for values (see `nbutils.plotting.texts`).
        alt: what a sighted reader takes from the figure, for figures without such an entry.
        twin: what stands for a plotly figure where scripts do not run, as on GitHub and in print: a matplotlib
            figure, or a function that draws it. A plotly figure without one has no files and no picture, and warns.
        caption: what is shown, for everyone; `$…$` is a formula. The entry's caption where None.
        data: the numbers behind the figure, written beside it as CSV with six significant digits.
        stem: the notebook's stem; the one given to `claims.begin` when not given.
        width: width on screen in CSS pixels; the figure's own when not given.
        values: fill the places of the entry's name and texts.

    Raises:
        KeyError: there is neither `alt` nor an entry, or the entry asks for another value.
        ValueError: `alt` or `caption` is empty, `name` is not a file name, or a file would exceed 300 kB.
        TypeError: `fig` is neither a figure nor a function that returns one, `data` is no data frame, or `twin` is
            not matplotlib's or given with a figure that is.

    >>> import nbutils as nb, os
    >>> from matplotlib.figure import Figure
    >>> os.environ["NBUTILS_OUT"] = "."  # in place of large-assets
    >>> nb.show(Figure(), "empty", "An empty figure.", stem="01-color-cube")  # doctest: +SKIP
    >>> nb.show(lambda: Figure(), "empty", stem="01-color-cube")
    Traceback (most recent call last):
    KeyError: ...
    """
    stem = stem or claims.stem()
    name, alt, caption = _describe(stem, name, alt, caption, values)
    files = {} if data is None else {"data": _checked(_csv(data), f"figure {name!r} (data)")}
    bundle: dict[str, Any] = {"text/plain": alt}
    metadata: dict[str, Any] = {}
    if isinstance(fig, LiveFigure):
        label = re.split(r"(?<=[.!?])\s", alt)[0]
        files["live"] = _checked(fig.stored(label), f"figure {name!r} (live)", MAX_LIVE_BYTES)
        bundle[LIVE] = {"figure": name}
        widget = fig.widget(label)
        bundle[WIDGET_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        if place := _place():
            former, _widgets[place, name] = _widgets.get((place, name)), widget
            if former:  # its output went when the cell ran again
                former.layout.close()
                former.close()
        fig = fig.static
    light: _Picture | dict[str, Any] | None = _rendered(fig, LIGHT)
    if isinstance(light, dict):
        bundle[PLOTLY], metadata[PLOTLY] = light, {"alt": alt}
        fig, light = twin, None if twin is None else _picture(twin, LIGHT)
    elif twin is not None:
        raise TypeError(f"figure {name!r} is matplotlib's and needs no twin")
    if light:
        for look, picture in ((LIGHT, light), (DARK, _picture(fig, DARK))):
            files[look.name] = _checked(picture.content, f"figure {name!r} ({look.name})")
        _enter(layout.assets(stem), name, Texts(alt, caption, claims.source()), files)
        bundle["image/png"] = b64encode(light.content).decode()
        metadata["image/png"] = {"alt": alt, "width": width or light.width}
    else:
        warnings.warn(f"figure {name!r} has no picture for where scripts do not run; give it a twin", stacklevel=2)
    _display(bundle, metadata, alt, caption)


class _Picture(NamedTuple):
    """A PNG and its width on screen, in CSS pixels."""

    content: bytes
    width: int


def _rendered(fig: Any, look: Theme) -> _Picture | dict[str, Any]:
    """Return the picture of a matplotlib figure, or the JSON of a plotly figure."""
    with themes.use(look), _drawn(fig, look) as figure:
        if not _is_matplotlib(figure):
            live: dict[str, Any] = json.loads(figure.to_json())  # arrays stay packed as base64
            return live
        width = round(figure.get_figwidth() * SCREEN_PIXELS_PER_INCH)
        return _Picture(_compact(png(figure, PIXELS_PER_INCH)), width)


def _picture(fig: Any, look: Theme) -> _Picture:
    picture = _rendered(fig, look)
    if isinstance(picture, dict):
        raise TypeError("expected a matplotlib figure, or a function that returns one, got one of plotly")
    return picture


class Texts(NamedTuple):
    """What the manifest says of a figure in words."""

    alt: str
    caption: str
    source: str | None


def _describe(
    stem: str, name: str, alt: str | None, caption: str | None, values: Mapping[str, object]
) -> tuple[str, str, str]:
    """Return name, alt text and caption of a figure, from its entry in `figures.toml` unless they are given."""
    if Path(stem).name != stem:
        raise ValueError(f"stem must be a notebook's name without folder, got {stem!r}")
    if caption is not None and not caption.strip():
        raise ValueError(f"figure {name!r} has an empty caption; leave it out")
    kept = ""
    if alt is None:
        name, alt, kept = texts.filled(stem, name, values)
    elif values:
        raise ValueError(f"figure {name!r}: {', '.join(values)} fill in an entry of figures.toml; got alt as well")
    alt = " ".join(alt.split())
    if not alt:
        raise ValueError(f"figure {name!r} needs alt text that says what a sighted reader takes from it")
    if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", name):
        raise ValueError(f"a figure's name takes lower-case letters, digits, - and _, got {name!r}")
    return name, alt, kept if caption is None else " ".join(caption.split())


def _csv(data: pd.DataFrame) -> bytes:
    """Return a table as CSV; an index that only counts is left out."""
    import pandas as pd

    if not isinstance(data, pd.DataFrame):
        raise TypeError(f"the data of a figure are a data frame, got {type(data).__name__}")
    counts = isinstance(data.index, pd.RangeIndex) and data.index.name is None
    return data.to_csv(index=not counts, float_format="%.6g", lineterminator="\n").encode()


def _checked(content: bytes, figure: str, most: int = MAX_BYTES) -> bytes:
    """Return a file that is small enough."""
    if len(content) > most:
        raise ValueError(f"{figure} takes {len(content)} bytes, at most {most} may be; make it smaller or simpler")
    return content


def show_recorded(name: str, which: str = "real", *, stem: str | None = None) -> None:
    """Display a figure of a recorded run, and enter it among this run's as `recorded-<name>`.

    Args:
        name: the figure's name in that run.
        which: one of `layout.RECORDED`; of `"full"`, the name here is `recorded-full-<name>`.
        stem: the notebook's stem; the one given to `claims.begin` when not given.

    Raises:
        KeyError: no such figure is recorded.
    """
    stem = stem or claims.stem()
    folder = layout.recorded(stem, which).parent / which
    if which == "real":
        _show_kept(folder, name, stem, f"recorded-{name}", "Recorded on {source}. ")
    else:
        _show_kept(folder, name, stem, f"recorded-{which}-{name}", "Recorded in the full profile on {source}. ")


def _show_kept(folder: Path, name: str, stem: str, entered_as: str, before: str) -> None:
    entries = manifest_of(folder)
    if name not in entries:
        raise KeyError(f"no figure {name!r} in {folder.name}; there are {', '.join(entries) or 'none'}")
    entry = entries[name]
    before = before.format(source=entry["source"])
    alt, caption = before + entry["alt"], before + entry["caption"] if "caption" in entry else ""
    files = {key: (folder / entry[key]["file"]).read_bytes() for key in files_of(entry)}
    _enter(layout.assets(stem), entered_as, Texts(alt, caption, entry["source"]), files)
    width = round(_pixels(files["light"]) * SCREEN_PIXELS_PER_INCH / PIXELS_PER_INCH)
    bundle = {"text/plain": alt, "image/png": b64encode(files["light"]).decode()}
    _display(bundle, {"image/png": {"alt": alt, "width": width}}, alt, caption)


def _pixels(png: bytes) -> int:
    from PIL import Image

    return Image.open(BytesIO(png)).width


def manifest(stem: str) -> dict[str, dict[str, Any]]:
    """Return the manifest of a notebook's figures by name (see `manifest_of`)."""
    return manifest_of(layout.assets(stem))


@contextmanager
def _drawn(fig: Any, look: Theme) -> Iterator[Any]:
    """Yield the figure in this look; close it, or give a finished one its own colours back."""
    figure = fig() if callable(fig) else fig
    if not _is_matplotlib(figure) and not _is_plotly(figure):
        raise TypeError(
            f"expected a matplotlib or plotly figure, or a function that returns one, got {type(figure).__name__}"
        )
    if not _is_matplotlib(figure):
        yield figure if callable(fig) else _plotly_in(figure)
        return

    restore = themes.recolour(figure, look) if not callable(fig) and look is not LIGHT else []
    try:
        yield figure
    finally:
        for undo, value in restore:
            undo(value)
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(figure)  # or the notebook would show a figure of pyplot's a second time


def _is_matplotlib(figure: Any) -> bool:
    from matplotlib.figure import Figure

    return isinstance(figure, Figure)


def _is_plotly(figure: Any) -> bool:
    from plotly.basedatatypes import BaseFigure

    return isinstance(figure, BaseFigure)


def png(figure: Figure, pixels_per_inch: int) -> bytes:
    """Return a matplotlib figure as PNG; call it inside `theme.use`, where the figure was drawn."""
    out = BytesIO()
    # Neither date nor software, nor the window system in use: the bytes depend on the drawing alone.
    figure.savefig(out, format="png", backend="agg", dpi=pixels_per_inch, metadata={"Software": None})
    return out.getvalue()


def _compact(png: bytes) -> bytes:
    """Return the picture with a palette, a third of the size, where that does not shift its colours.

    Lines and text keep their colours in a palette. Patches of many colours do not, but they are flat, so in
    true colour they are small anyway. Where photographs fill the palette, lines keep the themes' accents.
    """
    import numpy as np
    from PIL import Image, ImageColor

    picture = Image.open(BytesIO(png)).convert("RGB")
    reduced = picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    shift = np.abs(np.asarray(picture, np.int16) - np.asarray(reduced.convert("RGB"), np.int16)).max(axis=-1)
    if (shift > VISIBLE_SHIFT).mean() > 0.01:
        exact = _encoded(picture)
        if len(exact) <= COMFORTABLE_BYTES:
            return exact
    pixels = np.asarray(picture, np.int16)
    accents = {ImageColor.getrgb(accent) for look in (LIGHT, DARK) for accent in look.accents}
    lost = sorted(one for one in accents if (shift[(pixels == one).all(axis=-1)] > VISIBLE_SHIFT).any())
    if lost:
        reduced = picture.quantize(COLOURS - len(lost), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few = (reduced.getpalette() or [])[: 3 * (COLOURS - len(lost))]
        palette = np.array([*few, *np.ravel(lost)], np.int16).reshape(-1, 3)
        places = np.array(reduced)
        for place in range(len(few) // 3, len(palette)):  # what is nearer to an accent becomes the accent
            own, other = (np.abs(pixels - palette[which]).sum(axis=-1) for which in (places, place))
            places[other < own] = place
        reduced = Image.fromarray(places, "P")
        reduced.putpalette(palette.astype(np.uint8).tobytes())
    return _encoded(reduced)


def _encoded(picture: Image.Image) -> bytes:
    out = BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _plotly_in(figure: go.Figure) -> go.Figure:
    """Return a finished plotly figure in the theme in force."""
    import plotly.graph_objects as go
    import plotly.io as pio

    return go.Figure(figure).update_layout(template=pio.templates[pio.templates.default])


_SUFFIXES = {"light": ".png", "dark": ".dark.png", "data": ".csv", "live": ".live.json"}


def _enter(folder: Path, name: str, words: Texts, files: dict[str, bytes]) -> None:
    entry: dict[str, Any] = {"cell": _cell(), "alt": words.alt, "source": words.source}
    if words.caption:
        entry["caption"] = words.caption
    for key, content in files.items():
        file = atomic.write(folder / f"{name}{_SUFFIXES[key]}", content).name
        entry[key] = {"file": file, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    with _entering:
        entries = manifest(folder.name) | {name: entry}
        text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False)
        atomic.write(folder / "manifest.json", text + "\n")


def _cell() -> int | None:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # Not shell.execution_count: newer versions of IPython raise it before the cell runs, older ones after.
    return len(shell.history_manager.input_hist_parsed) - 1 if shell else None


def _place() -> str | None:
    """Return what JupyterLab calls the cell that runs, None elsewhere."""
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython() if ipython else None, "kernel", None)
    place: str | None = kernel.get_parent().get("metadata", {}).get("cellId") if kernel else None
    return place


def _display(bundle: dict[str, Any], metadata: dict[str, Any], alt: str, caption: str) -> None:
    if _cell() is None:
        return  # a plain script has nowhere to display
    from IPython.display import display

    display(bundle, raw=True, metadata=metadata)
    description = f"<summary>Figure description</summary>{html.escape(alt)}"
    above = f'<p class="figure-caption">{html.escape(caption)}</p>' if caption else ""
    text = {
        "text/html": f'{above}<details class="figure-description">{description}</details>',
        "text/plain": f"{caption}\n" * bool(caption) + f"Figure description: {alt}",
    }
    display(text, raw=True)
