"""VQ, SimVQ and the control."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.quantizers import none, paper, simvq, vq

Z = jnp.asarray(np.random.default_rng(0).normal(size=(256, 2)), jnp.float32)
KEY = jax.random.key(0)


def test_vq_loss_and_gradients_by_hand():
    quantizer = vq(2, 1)
    params = {"codebook": jnp.array([[0.0], [1.0]])}
    z = jnp.array([[0.2], [0.9]])

    def loss_of(params, z):
        return quantizer.train(params, {}, z, KEY)[2]

    assert float(loss_of(params, z)) == pytest.approx(1.25 * (0.2**2 + 0.1**2) / 2)
    to_codebook, to_z = jax.grad(loss_of, argnums=(0, 1))(params, z)
    np.testing.assert_allclose(to_codebook["codebook"], [[-0.2], [0.1]], rtol=1e-5)
    np.testing.assert_allclose(to_z, [[0.25 * 0.2], [0.25 * -0.1]], rtol=1e-5)


def test_vq_passes_the_gradient_of_the_decoder_to_z_alone():
    quantizer = vq(4, 2)
    params, state = quantizer.init(KEY)
    to_params, to_z = jax.grad(lambda p, z: quantizer.train(p, state, z, KEY)[0].sum(), argnums=(0, 1))(params, Z)
    np.testing.assert_array_equal(to_params["codebook"], 0)
    np.testing.assert_array_equal(to_z, 1)


def test_running_means_follow_their_clusters():
    quantizer = vq(4, 2, update="ema", decay=0.9)
    params, state = quantizer.init(KEY)
    centers = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], np.float32)
    off = jnp.asarray(centers + np.array([1.0, -2.0]), jnp.float32)
    state = state._replace(codebook=off, sums=off)
    step = jax.jit(quantizer.train)
    for i in range(100):
        rng = np.random.default_rng(i)
        z = centers[rng.integers(0, 4, 256)] + 0.01 * rng.normal(size=(256, 2))
        _, state, _, _ = step(params, state, jnp.asarray(z, jnp.float32), jax.random.key(i))
    codebook = np.asarray(quantizer.fit(params, state, None, KEY))
    np.testing.assert_allclose(codebook, centers, atol=0.01)


@pytest.mark.system
def test_dead_codes_come_back_only_where_asked():
    for restart_below, revived in ((0.0, False), (0.1, True)):
        quantizer = vq(8, 2, update="ema", decay=0.5, restart_below=restart_below)
        params, state = quantizer.init(KEY)
        state = state._replace(codebook=state.codebook.at[3].set(1e3), sums=state.sums.at[3].set(1e3))
        for i in range(20):
            _, state, _, _ = quantizer.train(params, state, Z, jax.random.key(i))
        assert (float(jnp.abs(state.codebook[3]).max()) < 10) == revived


def test_codes_in_use_are_left_alone():
    quantizer = vq(64, 2, update="ema", restart_below=0.1)
    params, state = quantizer.init(KEY)
    step = jax.jit(quantizer.train)
    num_restarted = []
    for i in range(400):
        _, state, _, _ = step(params, state, jax.random.normal(jax.random.key(i), (512, 2)), jax.random.key(i))
        num_restarted.append(int((state.counts == 512 / 64).sum()))
    assert sum(num_restarted[:100]) > 0
    assert np.mean(num_restarted[-100:]) < 0.5  # of 64 codes; those at the rim are met seldom


def test_simvq_learns_the_map_and_leaves_the_codebook():
    quantizer = simvq(16, 2)
    params, state = quantizer.init(KEY)
    codebook = quantizer.fit(params, state, None, KEY)
    np.testing.assert_allclose(codebook, state["codebook"] @ params["kernel"] + params["bias"], rtol=1e-6)
    gradient = jax.grad(lambda params: quantizer.train(params, state, Z, KEY)[2])(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    z_tilde, new_state, _, _ = quantizer.train(params, state, Z, KEY)
    np.testing.assert_array_equal(new_state["codebook"], state["codebook"])
    expected = quantizer.decode(codebook, quantizer.encode(codebook, Z))
    np.testing.assert_allclose(z_tilde, expected, atol=1e-6)


def test_none_changes_nothing_in_training():
    quantizer = none(8, 2)
    z_tilde, _, loss, _ = quantizer.train({}, {}, Z, KEY)
    np.testing.assert_array_equal(z_tilde, Z)
    assert float(loss) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vq(0, 2), "codebook_size=0"),
        (lambda: vq(4, 2, update="adam"), "update='adam'"),
        (lambda: vq(4, 2, decay=1.0), r"decay=1\.0"),
        (lambda: vq(4, 2, restart_below=0.1), "with update='ema'"),
        (lambda: vq(4, 2, update="ema", restart_below=1.0), r"restart_below=1\.0"),
        (lambda: vq(4, 2, commitment_weight=-1), "commitment_weight=-1"),
        (lambda: simvq(4, 0), "latent_dim=0"),
        (lambda: simvq(4, 2, commitment_weight=-1), "commitment_weight=-1"),
        (lambda: none(0, 2), "codebook_size=0"),
        (lambda: paper.settings(vq, 100), "codebook_size=100: expected one of 16, 64, 256"),
    ],
)
def test_settings_that_cannot_work_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
