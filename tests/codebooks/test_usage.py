import numpy as np
import pytest

from vpvae_jax.codebooks.usage import cvu, cvu_ceiling


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


class TestCeiling:
    @pytest.mark.parametrize(("num_codes", "num_tokens"), [(16, 40), (256, 256), (1024, 2912), (240, 50_000)])
    def test_against_draws_from_a_uniform_distribution(self, num_codes, num_tokens):
        draws = np.random.default_rng(0).multinomial(num_tokens, np.full(num_codes, 1 / num_codes), size=400)
        scores = [cvu(counts) for counts in draws]
        assert cvu_ceiling(num_codes, num_tokens) == pytest.approx(np.mean(scores), rel=4 * np.std(scores) / 20 + 2e-3)

    def test_few_tokens_are_biased_down(self):
        assert cvu_ceiling(1024, 2912) == pytest.approx(0.824, abs=5e-4)  # speech-validation
        assert cvu_ceiling(1024, 10**6) == pytest.approx(np.exp(-1023 / 2e6), abs=1e-6)

    @pytest.mark.parametrize("num_codes", [1, 2, 1000])
    def test_of_one_token(self, num_codes):
        assert cvu_ceiling(num_codes, 1) == pytest.approx(1 / num_codes)

    def test_very_many_tokens(self):
        assert 1 - 1e-6 < cvu_ceiling(4096, 10**10) <= 1

    @pytest.mark.parametrize(("num_codes", "num_tokens"), [(0, 4), (4, 0)])
    def test_nothing_counted(self, num_codes, num_tokens):
        with pytest.raises(ValueError, match="expected at least one of each"):
            cvu_ceiling(num_codes, num_tokens)
