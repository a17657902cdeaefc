"""Data sets are found in their publisher's layout, and what is missing is named."""

from __future__ import annotations

import dataclasses

import pytest

from nbutils.data import sources


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv(sources.DATA_VARIABLE, str(tmp_path))
    return tmp_path


def test_mnist_is_found_when_its_last_file_arrives(data):
    raw = data / "MNIST" / "raw"
    raw.mkdir(parents=True)
    names = sources.find("mnist").missing
    assert len(names) == 4
    for name in names:
        incomplete = sources.find("mnist")
        assert not incomplete.found
        assert incomplete.path is None
        assert name in incomplete.missing
        (raw / name).touch()
    source = sources.find("mnist")
    assert (source.found, source.path, source.missing, source.looked_in) == (True, raw, (), (raw,))


def test_without_the_variable_nothing_is_looked_for(data, monkeypatch):
    assert all(source.looked_in for source in sources.all_sources())
    monkeypatch.delenv(sources.DATA_VARIABLE)
    assert not any(source.looked_in or source.found for source in sources.all_sources())


def test_an_unknown_name_lists_the_known(data):
    with pytest.raises(KeyError, match="mnist, cifar10, "):
        sources.find("imagenet")


def test_a_source_cannot_be_changed(data):
    with pytest.raises(dataclasses.FrozenInstanceError):
        sources.find("mnist").found = True
