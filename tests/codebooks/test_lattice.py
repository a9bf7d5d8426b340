import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.codebooks import lattice


def test_first_dimension_is_fastest():
    np.testing.assert_array_equal(lattice.all_levels((2, 3)), [[0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2]])


@pytest.mark.parametrize("levels", [(2,), (3, 3), (2, 5, 4), (8, 8, 8, 6, 5), (4,) * 7])
def test_indices_and_levels_are_inverse_over_all_codes(levels):
    every = lattice.all_levels(levels)
    expected = [combination[::-1] for combination in itertools.product(*(range(n) for n in levels[::-1]))]
    np.testing.assert_array_equal(every, expected)
    indices = lattice.to_indices(every, levels)
    assert indices.dtype == every.dtype == jnp.int32
    np.testing.assert_array_equal(indices, np.arange(np.prod(levels)))


@pytest.mark.parametrize("levels", [(), (1,), (4, 1), (4, 2.0), (0, 3), (-2,)])
def test_levels_below_two(levels):
    with pytest.raises(ValueError, match="expected whole numbers of at least 2"):
        lattice.check_levels(levels)


def test_levels_that_do_not_match():
    with pytest.raises(ValueError, match=r"levels=\(8, 6, 5\) are 3 dimensions but latent_dim=4"):
        lattice.check_levels((8, 6, 5), 4)
    with pytest.raises(ValueError, match="indices are int32"):
        lattice.check_levels((256,) * 4)
