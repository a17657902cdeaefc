"""Pictures: 8-bit RGB of one size, whole; anything else is refused by its header, before memory is taken for it."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nbutils.data import pictures

SIDE = 12


def noise(channels: int = 3, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (SIDE, SIDE, channels), dtype=dtype)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Write a PNG by hand, since no library writes a false one."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "named.jpg"])
def test_the_pixels_of_lossless_pictures_are_their_own(tmp_path, name):
    pixels = noise()
    kind = {"named.jpg": "PNG"}.get(name)  # the first bytes count, not the name
    Image.fromarray(pixels).save(tmp_path / name, format=kind, **({"lossless": True} if name == "a.webp" else {}))
    assert np.array_equal(pictures.read(tmp_path / name, SIDE, SIDE), pixels)


def test_a_fourth_channel_may_be_there_if_it_is_opaque(tmp_path):
    pixels = noise(4)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(pictures.read(tmp_path / "a.png", SIDE, SIDE), pixels[..., :3])
    pixels[0, 0, 3] = 254
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(pictures.PictureError, match=r"a\.png: expected opaque pixels"):
        pictures.read(tmp_path / "a.png", SIDE, SIDE)


@pytest.mark.parametrize("side", [5_000, 11_000, 30_000])
def test_a_bomb_is_refused_by_its_header(tmp_path, side):
    """519 kB of zeros that would be 2.7 GB; Pillow's own limits lie at 0.09 and 0.18 Gpx."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 8, 2, bytes(1_000_000)))
    tracemalloc.start()
    for errors in ("ignore", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(errors)
            with pytest.raises(pictures.PictureError, match=rf"bomb\.png: expected {SIDE}×{SIDE} pixels[;,] found"):
                pictures.read(path, SIDE, SIDE)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_deep_grey_and_moving_pictures_are_refused(tmp_path):
    frames = [Image.fromarray(noise() // part) for part in (1, 2)]
    makers = {
        r"16-bit RGB": lambda path: path.write_bytes(png(SIDE, SIDE, 16, 2, bytes(SIDE * (1 + 6 * SIDE)))),
        r"16-bit I;16": lambda path: path.write_bytes(png(SIDE, SIDE, 16, 0, bytes(SIDE * (1 + 2 * SIDE)))),
        "mode L": lambda path: Image.fromarray(noise(1)[..., 0]).save(path),
        "mode P": lambda path: frames[0].quantize(8).save(path),
        "mode CMYK": lambda path: frames[0].convert("CMYK").save(path, format="JPEG"),
        "2 frames": lambda path: frames[0].save(path, save_all=True, append_images=frames[1:]),
        "not a whole picture": lambda path: frames[0].save(path, format="EPS"),
    }
    for found, make in makers.items():
        path = tmp_path / "a.png"
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(pictures.PictureError, match=rf"a\.png: .*{found}"):
            pictures.read(path, SIDE, SIDE)


def test_folders_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(pictures.PictureError, match=r"a\.png: expected a picture; found a folder"):
        pictures.read(tmp_path / "a.png", SIDE, SIDE)
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        pictures.read(tmp_path / "b.png", SIDE, SIDE)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP"]), data=st.data())
def test_a_damaged_picture_is_read_at_its_size_or_refused(tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind.lower()}"
    Image.fromarray(noise()).save(path, format=kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    refusal = None
    with warnings.catch_warnings(action="ignore"):
        try:
            assert pictures.read(path, SIDE, SIDE).shape == (SIDE, SIDE, 3)
        except pictures.PictureError as error:
            refusal = error
    assert refusal is None or path.name in str(refusal)
