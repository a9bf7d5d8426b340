import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.neighbors import neighbor_distances
from vpvae_jax.quantizers import LatentNorm, vp

KEY = jax.random.key(2)
VARIANTS = {
    "neighbor": {"move": "neighbor"},
    "auto": {"eta": "auto"},
    "auto-rms": {"eta": "auto", "match": "rms"},
    "neighbor-auto": {"move": "neighbor", "eta": "auto"},
    "density": {"accept": "density"},
    "always": {"accept": "always"},
}


def tokens(n, dim, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, dim)), jnp.float32)


def test_defaults_are_those_of_the_authors():
    codebook_size, dim = 32, 3
    quantizer = vp(codebook_size, dim)
    assert quantizer[:3] == (dim, dim, codebook_size)
    params, state = quantizer.init(jax.random.key(0))
    assert params == {}
    k_radius = 16 * dim
    assert state.memory.samples.shape == (codebook_size * k_radius, dim)
    z = tokens(64, dim)
    _, _, loss, info = quantizer.train(params, state, z, KEY)
    radius = neighbor_distances(state.memory.samples, z, (k_radius,)).mean()  # eta = 1
    np.testing.assert_allclose(info["radius"], radius, rtol=1e-5)
    np.testing.assert_allclose(loss, LatentNorm().loss(z), rtol=1e-6)


def test_settings_reach_the_step():
    quantizer = vp(16, 2, k_radius=10, eta=0.5, capacity=100, latent_norm=LatentNorm(0.0, 2.0))
    params, state = quantizer.init(jax.random.key(0))
    assert state.memory.samples.shape == (100, 2)
    z = tokens(200, 2)
    _, _, loss, info = quantizer.train(params, state, z, KEY)
    np.testing.assert_allclose(
        info["radius"], 0.5 * neighbor_distances(state.memory.samples, z, (10,)).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(loss, 2 * jnp.mean((z.var(axis=0, ddof=1) - 1) ** 2), rtol=1e-5)


def test_info_describes_the_move():
    quantizer = vp(10, 2, k_radius=10, capacity=100)
    params, state = quantizer.init(jax.random.key(0))
    z = tokens(200, 2)
    z_tilde, _, _, info = quantizer.train(params, state, z, KEY)
    lengths = np.linalg.norm(z_tilde - z, axis=1)
    np.testing.assert_allclose(info["move_length"], lengths.mean(), rtol=1e-5)
    np.testing.assert_allclose(info["acceptance_rate"], (lengths > 0).mean(), rtol=1e-6)
    assert 0.3 < info["acceptance_rate"] < 0.95


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    """Settings, quantizer, state, and one compiled step with the gradient of `(z_tilde * weight).sum()`."""
    settings = VARIANTS[request.param]
    quantizer = vp(8, 2, k_radius=10, capacity=100, push_fraction=0.1, **settings)
    params, state = quantizer.init(jax.random.key(0))

    @jax.jit
    def step(state, z, weight):
        def weighted(z):
            out = quantizer.train(params, state, z, KEY)
            return (out[0] * weight).sum(), out

        (_, out), gradient = jax.value_and_grad(weighted, has_aux=True)(z)
        return out, gradient

    return settings, quantizer, state, step


def test_variants_move_and_are_the_identity_to_the_gradient(variant):
    _, _, state, step = variant
    z, weight = tokens(40, 2), tokens(40, 2, seed=3)
    (z_tilde, _, _, _), gradient = step(state, z, weight)
    assert (z_tilde != z).any()
    np.testing.assert_array_equal(gradient, weight)


def test_variants_advance_their_state(variant):
    settings, _, state, step = variant
    z = tokens(40, 2)
    (_, advanced, _, info), _ = step(state, z, z)
    assert int(advanced.memory.cursor) == 4
    is_token = (np.asarray(advanced.memory.samples)[:4, None] == np.asarray(z)[None]).all(axis=2)
    assert is_token.any(axis=1).all()
    assert float(info["eta"]) == float(state.calibration.eta) == 1
    if "eta" in settings:
        assert float(advanced.calibration.eta) != 1
        assert float(advanced.calibration.target) > 0
        assert int(advanced.calibration.step) == 1
        assert float(step(advanced, z, z)[0][3]["eta"]) == float(advanced.calibration.eta)
    else:
        assert advanced.calibration == state.calibration


def test_auto_measures_its_target_every_so_many_steps():
    quantizer = vp(8, 2, k_radius=10, capacity=100, eta="auto", calibrate_every=3, push_fraction=1.0)
    params, state = quantizer.init(jax.random.key(0))
    step = jax.jit(quantizer.train)
    targets = []
    for i in range(5):
        _, state, _, _ = step(params, state, tokens(40, 2, seed=i), jax.random.key(i))
        targets.append(float(state.calibration.target))
    assert targets[0] == targets[1] == targets[2] != targets[3] == targets[4]


def test_neighbor_moves_to_members_of_the_memory():
    quantizer = vp(8, 2, move="neighbor", k_radius=10, capacity=100)
    params, state = quantizer.init(jax.random.key(0))
    z = tokens(40, 2)
    z_tilde, _, _, info = quantizer.train(params, state, z, KEY)
    distances = np.linalg.norm(np.asarray(z_tilde)[:, None] - np.asarray(state.memory.samples)[None], axis=2)
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-6)
    tenth = neighbor_distances(state.memory.samples, z, (10,))[:, 0]
    lengths = np.linalg.norm(z_tilde - z, axis=1)
    assert (lengths <= 1.0001 * tenth).all()
    np.testing.assert_allclose(info["move_length"], lengths.mean(), rtol=1e-5)
    assert info.keys() == {"eta", "move_length"}


@pytest.mark.parametrize(
    ("num_tokens", "push_fraction", "expected"),
    [(1000, 0.01, 10), (30, 0.01, 1), (200, 1.0, 100)],
)
def test_memory_receives_its_share_of_the_tokens_drawn_without_replacement(num_tokens, push_fraction, expected):
    quantizer = vp(8, 2, k_radius=10, capacity=100, push_fraction=push_fraction)
    params, state = quantizer.init(jax.random.key(0))
    z = tokens(num_tokens, 2)
    _, pushed, _, _ = quantizer.train(params, state, z, KEY)
    assert int(pushed.memory.cursor) == expected % 100
    new = np.asarray(pushed.memory.samples)[:expected]
    is_token = (new[:, None] == np.asarray(z)[None]).all(axis=2)
    np.testing.assert_array_equal(is_token.sum(axis=1), 1)
    assert is_token.sum(axis=0).max() == 1
    np.testing.assert_array_equal(pushed.memory.samples[expected:], state.memory.samples[expected:])


def test_memory_receives_tokens_from_the_whole_batch():
    quantizer = vp(8, 2, k_radius=10, capacity=100, push_fraction=0.1)
    params, state = quantizer.init(jax.random.key(0))
    z = jnp.arange(200.0).reshape(100, 2)
    step = jax.jit(quantizer.train)
    rows = [np.asarray(step(params, state, z, jax.random.key(i))[1].memory.samples)[:10, 0] / 2 for i in range(40)]
    # Mean of 400 rows drawn from 0..99: 49.5 with a standard error of 1.4.
    assert np.mean(rows) == pytest.approx(49.5, abs=5)
    assert np.min(rows) < 10
    assert np.max(rows) >= 90


def test_memory_carries_no_gradient():
    quantizer = vp(8, 2, k_radius=10, capacity=100, push_fraction=0.5)
    params, state = quantizer.init(jax.random.key(0))
    to_z = jax.grad(lambda z: quantizer.train(params, state, z, KEY)[1].memory.samples.sum())(tokens(20, 2))
    np.testing.assert_array_equal(to_z, 0)

    def total(samples):
        z_tilde, _, loss, _ = quantizer.train(
            params, state._replace(memory=state.memory._replace(samples=samples)), tokens(20, 2), KEY
        )
        return z_tilde.sum() + loss

    np.testing.assert_array_equal(jax.grad(total)(state.memory.samples), 0)


def test_info_carries_no_gradient():
    quantizer = vp(8, 2, k_radius=10, capacity=100)
    params, state = quantizer.init(jax.random.key(0))
    gradient = jax.grad(lambda z: sum(quantizer.train(params, state, z, KEY)[3].values()))(tokens(20, 2))
    np.testing.assert_array_equal(gradient, 0)


def test_fit_clusters_the_latents_it_is_given():
    quantizer = vp(4, 2)
    params, state = quantizer.init(jax.random.key(0))
    centers = jnp.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    latents = jnp.tile(centers, (20, 1)) + 0.01 * tokens(80, 2)
    codebook = quantizer.fit(params, state, latents, KEY)
    assert (codebook.shape, codebook.dtype) == ((4, 2), jnp.float32)
    indices = quantizer.encode(codebook, centers)
    assert sorted(np.asarray(indices)) == [0, 1, 2, 3]
    np.testing.assert_allclose(quantizer.decode(codebook, indices), centers, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebook_size": 0}, "codebook_size=0"),
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"push_fraction": 0.0}, r"push_fraction=0\.0"),
        ({"push_fraction": 1.5}, r"push_fraction=1\.5"),
        ({"push_fraction": float("nan")}, "push_fraction=nan"),
        ({"eta": 0.0}, r"eta=0\.0 .* use eta > 0"),
        ({"eta": float("nan")}, "eta=nan"),
        ({"capacity": 20}, r"memory holds 20 latents but k_radius=32: choose k_radius in 1\.\.20"),
        ({"k_radius": 4, "capacity": 6}, "memory holds 6 latents but k_density=8"),
        ({"k_radius": 0, "capacity": 100}, "k_radius=0"),
        ({"move": "jump"}, "move='jump': expected one of metropolis, neighbor"),
        ({"accept": "never"}, "accept='never': expected one of metropolis, density, always"),
        ({"move": "neighbor", "accept": "density"}, "accept='density' with move='neighbor'"),
        ({"move": "neighbor", "accept": "always"}, "accept='always' with move='neighbor'"),
        ({"eta": "Auto"}, "eta='Auto': expected a positive number or 'auto'"),
        ({"eta": "auto", "match": "median"}, "match='median': expected one of mean, rms"),
        ({"eta": "auto", "calibrate_every": 0}, "calibrate_every=0: expected at least 1"),
        (
            {"eta": "auto", "k_radius": 10, "capacity": 15},
            "capacity=15 latents .* are too few to measure",
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_work_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        vp(**{"codebook_size": 16, "latent_dim": 2, **settings})


def test_many_dimensions_warn_where_moves_are_rejected():
    with pytest.warns(UserWarning, match="latent dimension 17 is above 16"):
        vp(4, 17)
    with pytest.warns(UserWarning, match="latent dimension 9 is above 8.*use move='neighbor'"):
        vp(4, 9)
    vp(4, 9, move="neighbor")  # a warning would be an error here
    vp(4, 9, accept="always")
