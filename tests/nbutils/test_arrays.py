"""Arrays are read by a key, and a key means one content."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nbutils.data import arrays


def test_a_key_is_a_content_and_the_file_is_written_once(tmp_path):
    features = {"x": torch.arange(6.0).reshape(2, 3), "y": np.array([True, False])}
    key = arrays.put(tmp_path, features)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    assert arrays.put(tmp_path, dict(reversed(features.items()))) == key
    assert path.stat().st_mtime_ns == before
    found = arrays.get(tmp_path, key)
    assert torch.equal(found["x"], features["x"])
    assert found["y"].tolist() == [True, False]
    assert arrays.get(tmp_path, key)["x"] is found["x"]  # read once

    others = [{**features, "x": features["x"].double()}, {**features, "x": features["x"].T}, {"z": features["x"]}]
    assert len({key, *(arrays.put(tmp_path, other) for other in others)}) == 4


def test_damage_is_noticed_by_name_and_mended_by_put(tmp_path):
    key = arrays.put(tmp_path, {"x": torch.zeros(100)})
    path = tmp_path / f"{key}.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], b"", whole[:-1] + b"\1"):
        path.write_bytes(content)
        with pytest.raises(arrays.ArrayError, match=f"{key}.safetensors"):
            arrays.get(tmp_path, key)
    assert arrays.put(tmp_path, {"x": torch.zeros(100)}) == key
    assert path.read_bytes() == whole


@pytest.mark.parametrize("key", ["../../../etc/passwd", "", "0" * 31, "A" * 32, None])
def test_a_key_is_no_path(tmp_path, key):
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        arrays.get(tmp_path, key)


def test_an_unknown_key_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no arrays 000"):
        arrays.get(tmp_path, "0" * 32)
