"""The public vocabulary: what it costs to import, and that the example of every name runs."""

import doctest
import inspect
import subprocess
import sys

import pytest

import nbutils as nb

NAMES = [name for name in nb.__all__ if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    item = getattr(nb, name)
    globs = {"nb": nb}
    (example,) = doctest.DocTestFinder(recurse=False).find(inspect.unwrap(item), name, module=False, globs=globs)
    assert example.examples, f"nb.{name} has no example"
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=said.append)
    assert not runner.failures, "".join(said)


def test_the_names_are_imported_when_they_are_used():
    program = (
        "import sys, nbutils as nb; first = set(sys.modules); nb.Site; then = set(sys.modules)\n"
        "print('torch' in first, 'torch' in then, 'nbutils.graphs' in then, nb.Site is nb.Site)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True", "False", "True"]
    with pytest.raises(AttributeError, match="swep"):
        nb.swep  # noqa: B018
