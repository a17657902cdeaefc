import pytest
import torch

from nbutils.data.pairs import PairLoader, Pairs


def pairs(count=10):
    clean = torch.arange(count * 3.0).view(count, 3)
    return Pairs(clean, -clean, torch.arange(count))


def test_a_loader_gives_every_pair_once_and_keeps_the_short_last_batch():
    loader = PairLoader(pairs(), 4)
    batches = list(loader)
    assert [batch.key for batch in batches] == [0, 1, 2]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(loader) == 3
    assert torch.equal(torch.cat([batch.clean for batch in batches]), loader.pairs.clean)
    assert torch.equal(torch.cat([batch.corrupt for batch in batches]), loader.pairs.corrupt)
    assert torch.equal(batches[1].pairs.labels, torch.arange(4, 8))
    assert [len(batch) for batch in PairLoader(pairs(), 5)] == [5, 5]
    assert all(torch.equal(a.clean, b.clean) for a, b in zip(loader, loader, strict=True))  # again, the same


def test_what_is_no_pair_and_no_batch_is_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        Pairs(torch.zeros(3, 2), torch.zeros(3, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="1 or more; got 0"):
        PairLoader(pairs(), 0)
    with pytest.raises(ValueError, match="at least one pair"):
        PairLoader(pairs(0), 2)
