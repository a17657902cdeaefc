"""Drawing tiles together against one by one, and decoding files in threads against one after the other.

One thread for drawing on both sides; seconds of drawing are processor time, of decoding they are those of the clock.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from studies.shortcut import readers, tile_files
from studies.shortcut.drawn_tiles import render
from studies.shortcut.plans import plan

TILES = 2000
ALONE = 100  # tiles drawn one by one, and extrapolated
FILES = 500
ROUNDS = 3


def measure() -> list[dict[str, object]]:
    """Time both; the fastest of several rounds, as other work on the machine only ever adds time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_drawing(), _decoding()]
    finally:
        torch.set_num_threads(threads)


def _drawing() -> list[dict[str, object]]:
    whole = plan(TILES)
    render(whole[:8])  # imports and first calls

    def alone() -> None:
        for item in range(ALONE):
            render(whole[item : item + 1])

    together = min(_seconds(time.process_time, lambda: render(whole)) for _ in range(ROUNDS))
    one_by_one = _seconds(time.process_time, alone) * TILES / ALONE
    name = f"{TILES:,} tiles of 48×48 drawn"
    return [
        _row(f"{name}: one by one", together, one_by_one, f"extrapolated from {ALONE}; the same pixels"),
        _row(f"{name}: the limit", together, 10.0, "on one core"),
    ]


def _decoding() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = render(plan(FILES, size=96)).pixels.numpy()
        lines = ["file,tumor,scanner,split,pcam_index"]
        for number, picture in enumerate(drawn):
            Image.fromarray(picture).save(folder / f"{number}.png")
            lines.append(f"{number}.png,0,A,train,{number}")
        (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        found = readers.read_folder(folder)
        times: dict[int, list[float]] = {tile_files.PARALLEL: [], FILES + 1: []}
        usual = tile_files.PARALLEL
        try:
            for _ in range(ROUNDS):  # in turn, so that a slow minute slows both
                for least, seconds in times.items():
                    tile_files.PARALLEL = least
                    seconds.append(_seconds(time.perf_counter, found.decoded))
        finally:
            tile_files.PARALLEL = usual
    threaded, serial = (min(seconds) for seconds in times.values())
    return _row(f"{FILES} PNG files of 96×96 decoded: without threads", threaded, serial, "files in the page cache")


def _seconds(clock, work) -> float:
    start = clock()
    work()
    return clock() - start


def _row(name: str, ours: float, reference: float, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": reference / ours, "unit": "s", "note": note}
