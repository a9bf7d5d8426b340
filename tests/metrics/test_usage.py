import numpy as np
import pytest

from vpvae_jax.metrics import cvu


class TestCvu:
    @pytest.mark.parametrize("num_codes", [1, 2, 256])
    def test_uniform_use_is_one(self, num_codes):
        assert cvu(np.full(num_codes, 7)) == pytest.approx(1.0)

    def test_one_code_in_use_is_a_collapse(self):
        counts = np.zeros(64, np.int64)
        counts[11] = 1000
        assert cvu(counts) == pytest.approx(1 / 64)

    def test_by_hand(self):
        # Shares 1/2, 1/4, 1/4: entropy 1.5 bits, 2^1.5 codes of 4 in effective use.
        assert cvu(np.array([2, 1, 1, 0])) == pytest.approx(2**1.5 / 4)

    def test_half_of_the_codes_alike(self):
        assert cvu(np.array([5, 0] * 8)) == pytest.approx(0.5)

    def test_scale_of_counts_does_not_matter(self):
        counts = np.array([3, 0, 9, 1])
        assert cvu(counts * 10**12) == pytest.approx(cvu(counts))

    def test_no_tokens(self):
        with pytest.raises(ValueError, match="counts are all zero"):
            cvu(np.zeros(8))
