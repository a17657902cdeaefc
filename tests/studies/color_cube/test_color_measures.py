import numpy as np
import pytest
import scipy.stats
from skimage.color import hsv2rgb

from studies.color_cube.measures import error_correlation, hsv_similarity, rgb_similarity

RED = (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("hsv", "expected"),
    [
        ((0, 1, 1), 1.0),
        ((1 / 12, 1, 1), 2 / 3),  # orange: 30° of 90°
        ((11 / 12, 1, 1), 2 / 3),  # the other way round the wheel
        ((3 / 12, 1, 1), 0.0),  # 90°
        ((0.5, 1, 1), 0.0),
        ((0.5, 0, 1), 0.0),  # white: saturation differs by 1
        ((0.5, 1, 0.5), (1 - 0.75) * 0.5),  # dark cyan: hue counts with vibrancy 0.75
        ((0, 0.5, 1), 0.5),
    ],
)
def test_similarity_to_red_by_hand(hsv, expected):
    assert hsv_similarity(hsv, RED) == pytest.approx(expected)
    assert rgb_similarity(hsv2rgb(np.array(hsv, dtype=float)), RED) == pytest.approx(expected)


def test_similarity_is_symmetric():
    a, b = np.random.default_rng(0).random((2, 50, 3))
    assert [hsv_similarity(x, y) for x, y in zip(a, b, strict=True)] == pytest.approx(
        [hsv_similarity(y, x) for x, y in zip(a, b, strict=True)]
    )


def test_correlations_equal_scipys():
    rng = np.random.default_rng(1)
    similarity, error = rng.random(200), rng.random((3, 200)) ** 2
    error[1] += similarity**3
    error[2, :50] = 0  # ties
    for power in (1, 3):
        ours = error_correlation(error, similarity, power)
        assert ours == pytest.approx([scipy.stats.pearsonr(row, similarity**power)[0] for row in error])
    ranks = error_correlation(error, similarity, method="spearman")
    assert ranks == pytest.approx([scipy.stats.spearmanr(row, similarity)[0] for row in error])
    assert ours[1] > 0.5 > abs(ours[0])


def test_constant_errors_have_no_correlation():
    assert np.isnan(error_correlation(np.ones(5), np.arange(5)))
    with pytest.raises(ValueError, match=r"\(4,\), \(5,\)"):
        error_correlation(np.ones(4), np.arange(5))
    with pytest.raises(ValueError, match="kendall"):
        error_correlation(np.ones(5), np.arange(5), method="kendall")
