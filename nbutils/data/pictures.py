"""Pictures as their bytes: 8-bit RGB of one known size, which is read in the header before any pixel is decoded."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Formats read; others may start programs of their own to be drawn."""


class PictureError(ValueError):
    """A picture cannot be used: the message names its file, what was expected and what was found."""


def read(path: Path, height: int, width: int, *, where: str | None = None) -> np.ndarray:
    """Return the pixels of a picture, uint8 `[height, width, 3]`.

    Args:
        path: a file of one of `FORMATS`.
        height, width: expected, in pixels. Another size is refused before memory is taken for it.
        where: what messages call the file; its path by default.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: no whole picture, another size, several frames, or anything but 8-bit RGB (a fourth channel may
            be there if it is opaque).
    """
    from PIL import Image

    where = where or str(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise PictureError(f"{where}: expected a picture; found a folder or a device")
    try:
        with Image.open(path, formats=FORMATS) as picture:  # reads the header
            _check(picture, height, width, where)
            picture.load()
            if picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255):
                raise PictureError(f"{where}: expected opaque pixels; found transparent ones")
            return np.array(picture.convert("RGB"))
    except PictureError:
        raise
    # A warning, where a caller makes errors of warnings.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"{where}: expected {height}×{width} pixels; found a hundred million or more") from None
    except (OSError, SyntaxError, ValueError, OverflowError, MemoryError, LookupError) as error:  # of damaged files
        kinds = ", ".join(FORMATS)
        raise PictureError(f"{where}: {found.st_size:,} bytes that are not a whole picture ({kinds})") from error


def _check(picture: Picture, height: int, width: int, where: str) -> None:
    """Refuse by the header alone."""
    if picture.size != (width, height):
        found = f"{picture.size[1]}×{picture.size[0]}"
        raise PictureError(f"{where}: expected {height}×{width} pixels, found {found}")
    if (frames := getattr(picture, "n_frames", 1)) != 1:
        raise PictureError(f"{where}: expected one picture; found {frames} frames of an animation")
    # Pillow has no mode for 16-bit colours: it would drop half of their bits, and tells so in its decoder's mode only.
    deep = ";16" in str(getattr(picture, "tile", ""))
    if picture.mode not in ("RGB", "RGBA") or deep:
        raise PictureError(f"{where}: expected 8-bit RGB; found {'16-bit ' if deep else 'mode '}{picture.mode}")
