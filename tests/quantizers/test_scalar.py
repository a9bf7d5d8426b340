"""FSP, FSQ and TokenBridge: reference numbers, exact round trips, settings that cannot work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.quantizers import LatentNorm, fsp, fsq, tokenbridge
from vpvae_jax.quantizers import fsp as fsp_factory
from vpvae_jax.quantizers.activations import get_activation
from vpvae_jax.quantizers.fsp import Draws, perturb_or_quantize, to_unit_variance

KEY = jax.random.key(0)
LEVELS = {
    "8x6x5": (8, 6, 5),
    "8x5x5x5": (8, 5, 5, 5),
    "7x5x5x5x5": (7, 5, 5, 5, 5),
    "8x8x8x6x5": (8, 8, 8, 6, 5),
    "3x3": (3, 3),
    "2": (2,),
}
levels_cases = pytest.mark.parametrize("name", LEVELS)
activation_cases = pytest.mark.parametrize("activation", ["tanh", "normal", "laplace", "sigmoid"])


@levels_cases
@activation_cases
def test_fsp_quantizes_as_the_reference(golden, name, activation):
    prefix = f"fsp/{name}/{activation}"
    quantizer = fsp_factory(LEVELS[name], activation=activation)
    codebook = quantizer.fit({}, {}, None, KEY)
    indices = quantizer.encode(codebook, quantizer.project(jnp.asarray(golden[f"{prefix}/a"])))
    np.testing.assert_array_equal(indices, golden[f"{prefix}/eval_indices"])
    np.testing.assert_allclose(quantizer.decode(codebook, indices), golden[f"{prefix}/eval_z_tilde"], atol=1e-5)
    np.testing.assert_allclose(codebook[:2000], golden[f"fsp/{name}/codes"], atol=1e-5)


@levels_cases
@activation_cases
@pytest.mark.parametrize(("rate", "result"), [(0.5, "train_mix_z_tilde"), (0.0, "train_perturb_z_tilde")])
def test_fsp_trains_as_the_reference(golden, name, activation, rate, result):
    prefix = f"fsp/{name}/{activation}"
    u = get_activation(activation).cdf(jnp.asarray(golden[f"{prefix}/a"]))
    draws = Draws(jnp.asarray(golden[f"{prefix}/train_u"]), jnp.asarray(golden[f"{prefix}/train_select_u"]))
    levels = jnp.array(LEVELS[name], jnp.float32)
    u_tilde, inside = perturb_or_quantize(u, draws, levels=levels, quantize_rate=rate)
    np.testing.assert_allclose(to_unit_variance(u_tilde), golden[f"{prefix}/{result}"], atol=1e-5)
    np.testing.assert_allclose(inside.mean(), golden[f"{prefix}/train_accept_prob"], atol=1e-5)


def test_fsp_vector_acceptance_moves_all_of_a_latent_or_nothing():
    u = jnp.array([[0.5, 0.99], [0.5, 0.5], [0.5, 0.99]])
    # Dimension 0 moves by +1/8; dimension 1 leaves [0, 1] in rows 0 and 2 but is quantized in row 2.
    draws = Draws(jnp.full((3, 2), 1.0), jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]))
    settings = {"levels": jnp.array([4.0, 4.0]), "quantize_rate": 0.5}
    by_dimension, _ = perturb_or_quantize(u, draws, **settings)
    by_vector, _ = perturb_or_quantize(u, draws, **settings, accept="vector")
    np.testing.assert_allclose(by_dimension, [[0.625, 0.99], [0.625, 0.625], [0.625, 0.875]], rtol=1e-6)
    np.testing.assert_allclose(by_vector, [[0.5, 0.99], [0.625, 0.625], [0.625, 0.875]], rtol=1e-6)


@pytest.mark.system
def test_fsp_norm_aims_at_the_variance_of_the_activation():
    z = jax.random.normal(KEY, (4096, 2))
    for activation in ("tanh", "normal", "laplace", "sigmoid"):
        loss = fsp((4, 4), activation=activation).train({}, {}, z, KEY)[2]
        target = get_activation(activation).variance
        np.testing.assert_allclose(loss, LatentNorm().loss(z, target), rtol=1e-5)


@pytest.mark.system
def test_the_gradient_is_that_of_the_map_alone():
    """Rounding and noise are the identity to the gradient, the bounding map is not."""
    z = jax.random.normal(KEY, (256, 2))
    slope = 1 - np.tanh(z) ** 2
    half = (5 - 1) * (1 - 1e-3) / 2  # the original FSQ with odd levels has no shift
    cases = [
        (fsp((5, 5)), np.sqrt(12) * slope / 2),
        (fsp((5, 5), activation="normal"), np.sqrt(12) * jax.scipy.stats.norm.pdf(z)),
        (fsq((5, 5), symmetric=True, noise_rate=0.5), slope),
        (fsq((5, 5)), slope * half / 2),
    ]
    for quantizer, expected in cases:
        gradient = jax.grad(lambda z, train=quantizer.train: train({}, {}, z, KEY)[0].sum())(z)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("levels", [*LEVELS.values(), (2, 2), (2, 3, 16)])
@pytest.mark.parametrize("make", [fsp, fsq, lambda levels: fsq(levels, symmetric=True)])
def test_every_index_survives_decode_and_encode(make, levels):
    quantizer = make(levels)
    codebook = quantizer.fit({}, {}, None, KEY)
    indices = jnp.arange(np.prod(levels), dtype=jnp.int32)
    assert quantizer.codebook_size == len(indices) == len(np.unique(codebook, axis=0))
    np.testing.assert_array_equal(quantizer.encode(codebook, quantizer.decode(codebook, indices)), indices)


@pytest.mark.parametrize("codebook_size", [4, 256, 16384])
def test_every_index_of_tokenbridge_survives(codebook_size):
    quantizer = tokenbridge(codebook_size)
    codebook = quantizer.fit({}, {}, None, KEY)
    indices = jnp.arange(codebook_size, dtype=jnp.int32)
    np.testing.assert_array_equal(quantizer.encode(codebook, codebook), indices)


def test_original_fsq_by_hand():
    quantizer = fsq((5, 4))
    codebook = quantizer.fit({}, {}, None, KEY)
    np.testing.assert_allclose(np.unique(codebook[:, 0]), [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(np.unique(codebook[:, 1]), [-1, -0.5, 0, 0.5])
    z = jnp.array([[0.0, 0.0], [9.0, 9.0], [-9.0, -9.0]])
    np.testing.assert_array_equal(quantizer.encode(codebook, quantizer.project(z)), [2 + 5 * 2, 4 + 5 * 3, 0])


def test_symmetric_fsq_by_hand():
    quantizer = fsq((3, 2), symmetric=True)
    codebook = quantizer.fit({}, {}, None, KEY)
    np.testing.assert_allclose(codebook, [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]])
    z = jnp.array([[-0.4, 0.1], [0.6, -0.1]])  # tanh: -0.38, 0.54
    np.testing.assert_array_equal(quantizer.encode(codebook, quantizer.project(z)), [1 + 3, 2])


def test_noise_of_symmetric_fsq_is_half_a_level_wide():
    z = jnp.zeros((20_000, 1))
    z_tilde = fsq((4,), symmetric=True, noise_rate=1.0).train({}, {}, z, KEY)[0]
    assert np.abs(z_tilde).max() <= 2 * 0.5 / 4
    assert float(z_tilde.std()) == pytest.approx(2 / 4 / np.sqrt(12), rel=0.02)


def test_tokenbridge_codes_are_the_means_of_equally_likely_bins():
    codebook = tokenbridge(4).fit({}, {}, None, KEY)
    np.testing.assert_allclose(codebook[:, 0], [-1.2711, -0.3247, 0.3247, 1.2711], atol=1e-3)


def test_tokenbridge_divergence_by_hand():
    quantizer = tokenbridge(16, kl_weight=0.1)
    # Two tokens: N(1, 1) and N(0, 4) in one dimension each, N(0, 1) in the other.
    z = jnp.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, np.log(4.0)]])
    loss = quantizer.train({}, {}, z, KEY)[2]
    np.testing.assert_allclose(loss, 0.1 * (0.5 + 0.5 * (4 - 1 - np.log(4.0))) / 2, rtol=1e-6)


@pytest.mark.system
def test_tokenbridge_draws_from_the_posterior():
    mean, log_variance = np.array([0.5, -2.0]), np.log([0.25, 4.0])
    z = jnp.tile(jnp.concatenate([mean, log_variance]), (40_000, 1))
    z_tilde = tokenbridge(16).train({}, {}, z, KEY)[0]
    np.testing.assert_allclose(z_tilde.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(z_tilde.std(axis=0), [0.5, 2.0], rtol=0.02)
    gradient = jax.grad(lambda z: tokenbridge(16).train({}, {}, z, KEY)[0].sum())(z)
    np.testing.assert_allclose(gradient[:, :2], 1)
    np.testing.assert_allclose(gradient[:, 2:], (z_tilde - mean) / 2, atol=1e-5)


def test_bfloat16_latents_give_the_indices_of_the_same_values_in_float32():
    for quantizer in (fsp((8, 6, 5)), fsq((8, 6, 5)), tokenbridge(64)):
        codebook = quantizer.fit({}, {}, None, KEY)
        z = jax.random.normal(KEY, (512, quantizer.input_dim)).astype(jnp.bfloat16)
        narrow = quantizer.encode(codebook, quantizer.project(z))
        np.testing.assert_array_equal(narrow, quantizer.encode(codebook, quantizer.project(z.astype(jnp.float32))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fsp((8, 1)), "levels="),
        (lambda: fsp((8, 6), latent_dim=3), "one level for each dimension"),
        (lambda: fsp((8,), activation="relu"), "activation='relu'"),
        (lambda: fsp((8,), activation="cauchy"), r"set latent_norm\.variance_weight=0"),
        (lambda: fsp((8,), quantize_rate=1.5), r"quantize_rate=1\.5"),
        (lambda: fsp((8,), accept="both"), "accept='both'"),
        (lambda: fsp((8,), uniformity_weight=-1.0), r"uniformity_weight=-1\.0: expected 0 or more"),
        (lambda: fsq((8, 1)), "levels="),
        (lambda: fsq((8,), noise_rate=-1), "noise_rate=-1"),
        (lambda: tokenbridge(1000), "codebook_size=1000 is no power of bins=4: use 256 or 1024"),
        (lambda: tokenbridge(256, 3), "latent_dim=3"),
        (lambda: tokenbridge(256, bins=1), "bins=1"),
        (lambda: tokenbridge(256, kl_weight=-1), "kl_weight=-1"),
    ],
)
def test_settings_that_cannot_work_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
