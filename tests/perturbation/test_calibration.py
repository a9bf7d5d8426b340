import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.perturbation import calibration
from vpvae_jax.quantizers import vp


@pytest.mark.system
@pytest.mark.parametrize(
    ("codebook_size", "dim", "expected"), [(256, 3, 1.16), pytest.param(1024, 4, 1.11, marks=pytest.mark.system)]
)
def test_ratio_on_a_standard_normal(codebook_size, dim, expected):
    k_radius = 16 * dim
    z_key, key = jax.random.split(jax.random.key(0))
    z = jax.random.normal(z_key, (codebook_size * k_radius, dim))
    ratio = calibration.error_to_move_ratio(key, z, codebook_size, k_radius=k_radius)
    assert float(ratio) == pytest.approx(expected, abs=0.03)


def test_error_of_a_codebook_of_points_by_hand():
    latents = jnp.array([[0.0], [1.0], [10.0], [11.0]])
    assert float(calibration.quantization_error(jax.random.key(0), latents, 2)) == pytest.approx(0.5)


def test_lengths():
    move = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    assert float(calibration.mean_length(move, "mean")) == pytest.approx(2.5)
    assert float(calibration.mean_length(move, "rms")) == pytest.approx(np.sqrt(12.5))


@pytest.mark.system
@pytest.mark.parametrize("match", calibration.MATCH)
def test_auto_eta_moves_latents_as_far_as_k_means(match):
    quantizer = vp(64, 2, eta="auto", match=match, calibrate_every=20)
    params, state = quantizer.init(jax.random.key(0))
    step = jax.jit(quantizer.train)
    moves = []
    for i in range(80):
        z = jax.random.normal(jax.random.key(100 + i), (1024, 2))
        z_tilde, state, _, info = step(params, state, z, jax.random.key(i))
        moves.append(calibration.mean_length(z_tilde - z, match))
    assert 1.05 < float(info["eta"]) < calibration.ETA_RANGE[1]
    assert float(np.mean(moves[-30:])) == pytest.approx(float(state.calibration.target), rel=0.05)


def test_a_number_stays():
    quantizer = vp(16, 2, eta=1.5)
    params, state = quantizer.init(jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), (64, 2))
    _, state, _, info = quantizer.train(params, state, z, jax.random.key(2))
    assert float(info["eta"]) == float(state.calibration.eta) == 1.5
