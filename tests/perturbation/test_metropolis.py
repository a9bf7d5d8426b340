import contextlib
import resource
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from vpvae_jax.neighbors.cpu import tree
from vpvae_jax.neighbors.xla import brute_force
from vpvae_jax.perturbation import memory, metropolis

# The reference distances come from torch.cdist in its matrix-multiply mode, |x|^2 - 2xs + |s|^2, which cancels: its
# error in a *squared* distance is up to about 2e-7 * (|x|^2 + max |s|^2), however small that distance is. The smallest
# ones are therefore off by up to 1.2e-3 of themselves while ours hold 1e-6 against float64. So: every array is
# compared by its largest magnitude, distances by that error, and the formulas are fed with the reference distances.
CDIST_ERROR = 2e-7


@pytest.fixture(scope="module", params=["K32_d3", "K64_d4", "K16_d8", "K128_d2"])
def reference(golden, request):
    prefix = f"vp/{request.param}/"
    arrays = {name.removeprefix(prefix): array for name, array in golden.items() if name.startswith(prefix)}
    return {name: array.item() if array.ndim == 0 else array for name, array in arrays.items()}


@pytest.fixture(scope="module")
def ours(reference):
    """The same step by our code, under the reference's names."""
    draws = metropolis.Draws(*(jnp.asarray(reference[name]) for name in ("direction_normal", "rho", "accept_u")))
    z, eta = jnp.asarray(reference["z"]), reference["eta"]
    z_tilde, info = metropolis.metropolis_step(
        jnp.asarray(reference["queue"]),
        z,
        draws,
        k_radius=reference["k_radius"],
        k_density=reference["k_density"],
        eta=eta,
    )
    assert float(info.acceptance_rate) == pytest.approx(reference["accepted"].mean())
    return {
        "D_k_z": info.density_distance,
        "D_M_z": info.radius / eta,
        "proposal": info.proposal,
        "D_k_proposal": info.proposal_density_distance,
        "D_M_proposal": info.proposal_radius / eta,
        "step_norm": jnp.linalg.norm(info.proposal - z, axis=-1),
        "log_accept_ratio": info.log_acceptance_ratio,
        "accepted": info.accepted,
        "z_tilde": z_tilde,
    }


def squared_error_of_cdist(reference, name):
    points = reference["proposal" if "proposal" in name else "z"]
    return CDIST_ERROR * ((points**2).sum(1) + (reference["queue"] ** 2).sum(1).max())


DISTANCES = ("D_k_z", "D_M_z", "D_k_proposal", "D_M_proposal")


@pytest.mark.parametrize("name", [*DISTANCES, "proposal", "step_norm", "z_tilde"])
def test_step_matches_reference_in_max_norm(reference, ours, name):
    np.testing.assert_allclose(ours[name], reference[name], rtol=0, atol=1e-5 * np.abs(reference[name]).max())


def test_step_accepts_what_the_reference_accepts(reference, ours):
    assert 0 < reference["accepted"].sum() < len(reference["accepted"])
    np.testing.assert_array_equal(ours["accepted"], reference["accepted"])


def test_step_log_ratio_matches_reference_within_the_error_of_its_distances(reference, ours):
    # d log D = d(D^2) / (2 D^2), for the four distances.
    propagated = sum(squared_error_of_cdist(reference, name) / (2 * reference[name] ** 2) for name in DISTANCES)
    expected = reference["log_accept_ratio"]
    allowed = reference["z"].shape[1] * propagated + 1e-5 * (1 + np.abs(expected))
    assert (np.abs(ours["log_accept_ratio"] - expected) <= allowed).all()
    assert np.median(allowed) < 5e-3  # for ratios of magnitude 1 to 20


@pytest.mark.parametrize("name", DISTANCES)
def test_squared_distances_match_reference_within_its_cancellation_error(reference, ours, name):
    found, expected = np.asarray(ours[name], np.float64), reference[name].astype(np.float64)
    allowed = squared_error_of_cdist(reference, name)
    if "proposal" in name:
        # Two proposals differ by the rounding of their radius and move their distances by as much; on long distances
        # the rounding of the two float32 values themselves shows, 2^-24 each.
        moved = np.linalg.norm(np.asarray(ours["proposal"]) - reference["proposal"], axis=1)
        allowed = allowed + 2 * expected * (moved + 2 * 2**-24 * expected)
    assert (np.abs(found**2 - expected**2) <= allowed).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_match_float64(reference, ours, name):
    points = np.asarray(ours["proposal"] if "proposal" in name else reference["z"], np.float64)
    exact = np.linalg.norm(points[:, None] - reference["queue"].astype(np.float64)[None], axis=-1)
    rank = reference["k_density" if "D_k" in name else "k_radius"]
    np.testing.assert_allclose(ours[name], np.sort(exact, axis=1)[:, rank - 1], rtol=1e-6)


def test_propose_matches_reference_given_its_distances(reference):
    radius = reference["eta"] * reference["D_M_z"]
    proposal = jax.vmap(metropolis.propose)(reference["z"], radius, reference["direction_normal"], reference["rho"])
    # Coordinates of a sum that cancels have no relative precision: 1e-5 of coordinate plus radius.
    allowed = 1e-5 * (np.abs(reference["proposal"]) + radius[:, None])
    assert (np.abs(proposal - reference["proposal"]) <= allowed).all()


def test_log_acceptance_ratio_matches_reference_given_its_distances(reference):
    eta, expected = reference["eta"], reference["log_accept_ratio"]
    found = metropolis.log_acceptance_ratio(
        reference["D_k_z"],
        eta * reference["D_M_z"],
        reference["D_k_proposal"],
        eta * reference["D_M_proposal"],
        reference["z"].shape[1],
    )
    assert (np.abs(found - expected) <= 1e-5 * (1 + np.abs(expected))).all()


def test_propose_is_uniform_in_the_ball():
    dim, radius = 3, 2.0
    direction_key, rho_key = jax.random.split(jax.random.key(0))
    direction = jax.random.normal(direction_key, (20_000, dim))
    rho = jax.random.uniform(rho_key, (20_000,))
    z = jnp.array([5.0, -1.0, 0.0])
    offset = jax.vmap(metropolis.propose, (None, None, 0, 0))(z, jnp.float32(radius), direction, rho) - z
    share = (jnp.linalg.norm(offset, axis=1) / radius) ** dim
    assert share.max() <= 1 + 1e-5
    # The volume share of a uniform point is U[0, 1]: Kolmogorov-Smirnov distance below 1.95 / sqrt(n) (p = 0.001).
    assert np.abs(np.sort(share) - np.arange(20_000) / 20_000).max() < 1.95 / np.sqrt(20_000)
    # Covariance radius^2 / (d + 2) * I, standard error about 0.006.
    np.testing.assert_allclose(np.cov(offset.T), radius**2 / (dim + 2) * np.eye(dim), atol=0.03)
    np.testing.assert_allclose(offset.mean(0), 0, atol=0.03)


def test_a_move_that_cannot_be_reversed_is_rejected():
    samples = jnp.array([[0.0], [10.0], [11.0], [12.0]])
    draws = metropolis.Draws(jnp.ones((1, 1)), jnp.array([0.99]), jnp.array([0.5]))
    # From 0 the second neighbour is 10 away, so the move ends at 9.9; back from there its second neighbour is 1.1 away.
    z_tilde, info = metropolis.metropolis_step(samples, jnp.array([[0.5]]), draws, k_radius=2, k_density=2, eta=1.0)
    np.testing.assert_allclose(info.proposal, 0.5 + 0.99 * 9.5, rtol=1e-6)
    assert info.log_acceptance_ratio[0] > 0  # the density alone would accept
    assert not info.accepted[0]
    np.testing.assert_array_equal(z_tilde, [[0.5]])


def test_density_accepts_a_move_that_cannot_be_reversed():
    samples = jnp.array([[0.0], [10.0], [11.0], [12.0]])
    draws = metropolis.Draws(jnp.ones((1, 1)), jnp.array([0.99]), jnp.array([0.5]))
    z_tilde, info = metropolis.metropolis_step(
        samples, jnp.array([[0.5]]), draws, k_radius=2, k_density=2, eta=1.0, accept="density"
    )
    assert info.accepted[0]  # log(0.5) < log(9.5) - log(1.095)
    np.testing.assert_allclose(z_tilde, [[0.5 + 0.99 * 9.5]], rtol=1e-6)


def small_step(seed=0, n=64, dim=3, num_samples=500, **settings):
    keys = jax.random.split(jax.random.key(seed), 3)
    samples = memory.init(keys[0], num_samples, dim).samples
    z = jax.random.normal(keys[1], (n, dim))
    return (keys[2], samples, z), {"k_radius": 40, "k_density": 8, **settings}


def test_z_tilde_is_the_proposal_where_accepted_and_z_elsewhere():
    (key, samples, z), settings = small_step()
    z_tilde, info = metropolis.perturb(key, samples, z, **settings)
    assert 0 < info.accepted.sum() < z.shape[0]
    np.testing.assert_allclose(z_tilde, np.where(info.accepted[:, None], info.proposal, z), atol=1e-6)
    np.testing.assert_array_equal(z_tilde[~info.accepted], z[~info.accepted])


def test_always_takes_every_proposal():
    (key, samples, z), settings = small_step()
    z_tilde, info = metropolis.perturb(key, samples, z, accept="always", **settings)
    assert info.accepted.all()
    assert float(info.acceptance_rate) == 1
    np.testing.assert_allclose(z_tilde, info.proposal, atol=1e-6)
    checked = metropolis.perturb(key, samples, z, **settings)[1]
    np.testing.assert_array_equal(info.proposal, checked.proposal)
    assert not checked.accepted.all()


@pytest.mark.parametrize("eta", [0.5, 2.0])
def test_density_accepts_by_the_ratio_of_the_densities_alone(eta):
    (key, samples, z), settings = small_step(n=256)
    keys = jax.random.split(key, 3)
    accept_u = jax.random.uniform(keys[2], (256,))
    draws = metropolis.Draws(jax.random.normal(keys[0], z.shape), jax.random.uniform(keys[1], (256,)), accept_u)
    _, info = metropolis.metropolis_step(samples, z, draws, eta=eta, accept="density", **settings)

    def distance(points):
        difference = np.asarray(points, np.float64)[:, None] - np.asarray(samples, np.float64)[None]
        return np.sort(np.linalg.norm(difference, axis=-1), axis=1)[:, settings["k_density"] - 1]

    ratio = (distance(z) / distance(info.proposal)) ** 3
    expected = np.asarray(accept_u) < ratio
    np.testing.assert_array_equal(info.accepted, expected)
    assert 0 < expected.sum() < 256
    checked = metropolis.metropolis_step(samples, z, draws, eta=eta, **settings)[1]
    assert (checked.accepted != expected).any()


def test_unknown_rule_of_acceptance_raises():
    (key, samples, z), settings = small_step()
    with pytest.raises(ValueError, match="accept='never': expected one of metropolis, density, always"):
        metropolis.perturb(key, samples, z, accept="never", **settings)


@pytest.mark.parametrize("accept", metropolis.ACCEPT)
def test_gradient_of_z_tilde_is_the_identity(accept):
    (key, samples, z), settings = small_step(accept=accept)
    jacobian = jax.jacobian(lambda z: metropolis.perturb(key, samples, z, **settings)[0])(z)
    np.testing.assert_array_equal(jacobian.reshape(192, 192), np.eye(192))
    to_samples = jax.grad(lambda samples: metropolis.perturb(key, samples, z, **settings)[0].sum())(samples)
    np.testing.assert_array_equal(to_samples, 0)


def test_info_carries_no_gradient():
    (key, samples, z), settings = small_step()

    def total(z):
        info = metropolis.perturb(key, samples, z, **settings)[1]
        return info.radius.sum() + info.proposal.sum() + info.log_acceptance_ratio.sum()

    np.testing.assert_array_equal(jax.grad(total)(z), 0)


def test_jit_equals_eager():
    (_, samples, z), settings = small_step()
    keys = jax.random.split(jax.random.key(3), 3)
    draws = metropolis.Draws(
        jax.random.normal(keys[0], z.shape), *(jax.random.uniform(key, z.shape[:1]) for key in keys[1:])
    )

    def step(samples, z, draws):
        return metropolis.metropolis_step(samples, z, draws, eta=1.0, **settings)

    eager, jitted = step(samples, z, draws), jax.jit(step)(samples, z, draws)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), eager, jitted)


def test_perturb_inside_the_callers_jit_equals_outside():
    (key, samples, z), settings = small_step()
    inside = jax.jit(lambda *args: metropolis.perturb(*args, eta=0.7, **settings))(key, samples, z)
    outside = metropolis.perturb(key, samples, z, eta=0.7, **settings)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), inside, outside)


def test_perturb_is_deterministic_in_the_key():
    (key, samples, z), settings = small_step()
    first, again = (metropolis.perturb(key, samples, z, **settings)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (metropolis.perturb(jax.random.key(99), samples, z, **settings)[0] != first).any()


def test_many_steps_trace_once(monkeypatch):
    traces = []
    step = metropolis.metropolis_step
    monkeypatch.setattr(metropolis, "metropolis_step", lambda *a, **k: traces.append(1) or step(*a, **k))
    state = memory.init(jax.random.key(0), 311, 2)  # a shape that no other test has traced
    for i, key in enumerate(jax.random.split(jax.random.key(1), 10)):
        z = jax.random.normal(key, (23, 2))
        metropolis.perturb(key, state.samples, z, k_radius=20, eta=1.0 + 0.1 * i)
        state = memory.push(state, z[:3])
    assert len(traces) == 1


@pytest.mark.parametrize(("codebook_size", "dim", "expected"), [(256, 3, 0.66), (1024, 4, 0.62)])
def test_acceptance_rate_is_that_of_the_authors_code(codebook_size, dim, expected):
    memory_key, z_key, key = jax.random.split(jax.random.key(0), 3)
    k_radius = 16 * dim
    samples = memory.init(memory_key, codebook_size * k_radius, dim).samples
    z = jax.random.normal(z_key, (16_384, dim))
    _, info = metropolis.perturb(key, samples, z, k_radius=k_radius)
    assert float(info.acceptance_rate) == pytest.approx(expected, abs=0.02)
    assert float(info.acceptance_rate) == pytest.approx(float(info.accepted.mean()))


def net_flux(z, weight, end):
    """Probability flux from the left to the right half of the box minus its reverse, in standard errors."""
    is_inside = (jnp.abs(end) < 1).all(axis=1)  # the box z is drawn from: both directions are seen in full
    to_right = is_inside & (z[:, 0] < 0) & (end[:, 0] > 0)
    to_left = is_inside & (z[:, 0] > 0) & (end[:, 0] < 0)
    flux = weight * (np.asarray(to_right, np.float64) - np.asarray(to_left, np.float64))
    return flux.mean() / (flux.std() / np.sqrt(len(flux)))


@pytest.mark.parametrize("dim", [2, 3])
def test_step_obeys_detailed_balance_for_its_target(dim):
    keys = jax.random.split(jax.random.key(7), 6)
    # Uniform in a box, nine times denser in its left half.
    samples = jax.random.uniform(keys[0], (2000, dim), minval=-1.0, maxval=1.0)
    side = jnp.where(jax.random.uniform(keys[1], (2000,)) < 0.9, -1.0, 1.0)
    samples = samples.at[:, 0].set(side * jnp.abs(samples[:, 0]))
    z = jax.random.uniform(keys[2], (30_000, dim), minval=-1.0, maxval=1.0)
    draws = metropolis.Draws(
        jax.random.normal(keys[3], z.shape), *(jax.random.uniform(key, z.shape[:1]) for key in keys[4:])
    )
    z_tilde, info = metropolis.metropolis_step(samples, z, draws, k_radius=64, k_density=8, eta=1.0)

    weight = np.asarray(info.density_distance, np.float64) ** -dim  # with it the uniform z follow the target
    by_ratio_alone = jnp.where((jnp.log(draws.accept_u) < info.log_acceptance_ratio)[:, None], info.proposal, z)
    assert abs(net_flux(z, weight, z_tilde)) < 3.5
    # The same statistic detects a step that takes every proposal, and one that forgets the reverse move.
    assert abs(net_flux(z, weight, info.proposal)) > 8
    assert abs(net_flux(z, weight, by_ratio_alone)) > 8


def uniform_box(key, n):
    return jax.random.uniform(key, (n, 2))


def two_gaussians(key, n):
    side_key, noise_key = jax.random.split(key)
    side = jnp.sign(jax.random.uniform(side_key, (n, 1)) - 0.3)
    return jnp.array([[1.5, 0.0]]) * side + jax.random.normal(noise_key, (n, 2)) * jnp.array([[0.4, 0.4]])


@pytest.mark.parametrize("density", [uniform_box, two_gaussians])
def test_latents_drawn_like_the_memory_keep_their_distribution(density):
    samples_key, z_key, key = jax.random.split(jax.random.key(2), 3)
    z = density(z_key, 16_384)
    z_tilde, info = metropolis.perturb(key, density(samples_key, 2048), z, k_radius=128, k_density=8)
    moved = np.linalg.norm(z_tilde - z, axis=1).mean()
    assert moved > 0.2 * np.std(z[:, 1])  # far enough that the check below means something

    def change_of_variance(end):
        return np.var(end[:, 1]) / np.var(z[:, 1]) - 1

    # The standard error of a variance of 16,384 draws is at most 1.1 %.
    assert abs(change_of_variance(z_tilde)) < 0.033
    assert change_of_variance(info.proposal) > 0.05
    np.testing.assert_allclose(z_tilde.mean(0), z.mean(0), atol=0.033 * np.std(z, axis=0).max())


def test_latents_stay_where_the_memory_holds_one_repeated_latent():
    (key, samples, z), settings = small_step()
    samples, z = jnp.full_like(samples, 0.25), jnp.full_like(z, 0.25)
    z_tilde, info = metropolis.perturb(key, samples, z, **settings)
    np.testing.assert_array_equal(z_tilde, z)
    assert not info.accepted.any()
    gradient = jax.grad(lambda z: metropolis.perturb(key, samples, z, **settings)[0].sum())(z)
    np.testing.assert_array_equal(gradient, 1)


@pytest.mark.parametrize("eta", [0.0, -1.0, float("nan"), float("inf"), np.float32("nan")])
def test_eta_that_is_not_positive_and_finite_raises(eta):
    (key, samples, z), settings = small_step()
    with pytest.raises(ValueError, match=r"eta=.*must be positive and finite: use eta > 0"):
        metropolis.perturb(key, samples, z, eta=eta, **settings)


@pytest.mark.parametrize("name", ["k_radius", "k_density"])
@pytest.mark.parametrize("rank", [0, 501])
def test_a_rank_that_the_memory_cannot_serve_raises(name, rank):
    (key, samples, z), settings = small_step(num_samples=500)
    message = rf"memory holds 500 latents but {name}={rank}: choose {name} in 1\.\.500 or raise the capacity"
    with pytest.raises(ValueError, match=message):
        metropolis.perturb(key, samples, z, **{**settings, name: rank})


@pytest.mark.parametrize(
    ("shape", "message"), [((3,), r"z has shape \(3,\), expected \(n, d\)"), ((4, 2), r"\(500, 3\).*do not match")]
)
def test_latents_of_a_wrong_shape_raise(shape, message):
    (key, samples, _), settings = small_step()
    with pytest.raises(ValueError, match=message):
        metropolis.perturb(key, samples, jnp.zeros(shape), **settings)


@pytest.mark.parametrize(
    ("dim", "message"), [(17, "17 is above 16"), (9, "9 is above 8.*perturb_to_neighbor"), (8, None)]
)
def test_many_dimensions_warn(dim, message):
    check = {"num_samples": 500, "dim": dim, "eta": 1.0, "k_radius": 40, "k_density": 8}
    with pytest.warns(UserWarning, match=message) if message else contextlib.nullcontext():
        metropolis.check_perturbation(**check)
    if dim <= 16:
        metropolis.check_perturbation(**check, rejects=False)  # a warning would be an error here


@pytest.mark.system
def test_acceptance_falls_with_the_dimension():
    """The rates that the docstring and the warning give, for K = 1024 and eta = 1."""
    for dim, expected in ((8, 0.38), (12, 0.18)):
        memory_key, z_key, key = jax.random.split(jax.random.key(0), 3)
        samples = memory.init(memory_key, 1024 * 16 * dim, dim).samples
        z = jax.random.normal(z_key, (256, dim))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, info = metropolis.perturb(key, samples, z, k_radius=16 * dim)
        assert float(info.acceptance_rate) == pytest.approx(expected, abs=0.1)  # standard error 0.03


def test_repeated_latents_make_no_nan():
    """`jax_debug_nans` stops at any NaN, also at one that a decision does not need."""
    (key, samples, z), settings = small_step()
    samples = samples.at[100:].set(samples[0])
    z = z.at[:32].set(samples[0])
    expected = metropolis.perturb(key, samples, z, **settings)
    assert not expected[1].accepted[:32].any()
    assert expected[1].accepted.any()
    with jax.debug_nans(True):
        for accept in metropolis.ACCEPT:
            z_tilde, info = metropolis.perturb(key, samples, z, accept=accept, **settings)
            assert not np.isnan(info.log_acceptance_ratio).any()
        z_tilde, info = metropolis.perturb(key, samples, z, **settings)
    np.testing.assert_array_equal(z_tilde, expected[0])


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ((1, 1, 1, 1), 0.0),
        ((0, 1, 1, 1), -np.inf),
        ((0, 0, 0, 0), -np.inf),
        ((0, 1, 0, 1), -np.inf),
        ((1, 1, 0, 1), np.inf),
        ((1, np.inf, 1, np.inf), -np.inf),
    ],
)
def test_log_acceptance_ratio_at_the_limits(distances, expected):
    assert float(metropolis.log_acceptance_ratio(*map(jnp.float32, distances), 3)) == expected


def test_latents_that_are_not_finite_are_counted_and_stay():
    (key, samples, z), settings = small_step()
    _, info = metropolis.perturb(key, samples, z, **settings)
    assert int(info.num_not_finite) == 0
    spoilt = z.at[3, 1].set(jnp.nan).at[5].set(jnp.inf)
    z_tilde, info = metropolis.perturb(key, samples, spoilt, **settings)
    assert int(info.num_not_finite) == 2
    np.testing.assert_array_equal(z_tilde[jnp.array([3, 5])], spoilt[jnp.array([3, 5])])
    _, info = metropolis.perturb(key, samples.at[7, 0].set(jnp.nan), z, **settings)
    assert int(info.num_not_finite) == 1
    assert not info.accepted.any()


def test_64_bit_mode_changes_nothing():
    (key, samples, z), settings = small_step()
    expected = metropolis.perturb(key, samples, z, eta=1.5, **settings)
    with jax.enable_x64(True):
        found = metropolis.perturb(key, samples, z, eta=1.5, **settings)
        wide, _ = metropolis.perturb(key, samples, np.asarray(z, np.float64), eta=1.5, **settings)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(name) for name in ("float32", "bool", "int32")}
    np.testing.assert_array_equal(wide, expected[0])


@pytest.mark.system
def test_perturb_under_vmap_scan_and_remat():
    (key, samples, z), settings = small_step(n=16)
    keys = jax.random.split(key, 3)

    def step(z, key):
        return metropolis.perturb(key, samples, z, **settings)[0]

    together = jax.vmap(step, (None, 0))(z, keys)
    np.testing.assert_array_equal(together, jnp.stack([step(z, key) for key in keys]))
    end, _ = jax.lax.scan(lambda z, key: (step(z, key), None), z, keys)
    np.testing.assert_array_equal(end, step(step(step(z, keys[0]), keys[1]), keys[2]))
    slope = jax.grad(jax.checkpoint(lambda z: (step(z, key) ** 2).sum()))(z)
    np.testing.assert_allclose(slope, 2 * step(z, key), rtol=1e-6)


def test_bfloat16_latents_are_perturbed_in_float32():
    (key, samples, z), settings = small_step()
    low = z.astype(jnp.bfloat16)
    z_tilde, info = metropolis.perturb(key, samples, low, **settings)
    exact, _ = metropolis.perturb(key, samples, low.astype(jnp.float32), **settings)
    assert z_tilde.dtype == info.proposal.dtype == info.radius.dtype == jnp.float32
    np.testing.assert_allclose(z_tilde, exact, rtol=1e-6, atol=1e-6)
    gradient = jax.grad(lambda z: metropolis.perturb(key, samples, z, **settings)[0].sum())(low)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient, 1)


def peak_memory_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


LARGE = {"codebook_size": 16_384, "dim": 5, "k_radius": 80}  # the authors' largest setting: 1,310,720 latents


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(tree, "_trees", {})  # and free the large tree afterwards
    samples = memory.init(jax.random.key(0), LARGE["codebook_size"] * LARGE["k_radius"], LARGE["dim"]).samples
    return samples, jax.random.normal(jax.random.key(1), (1024, LARGE["dim"]))


@pytest.mark.system
def test_a_memory_of_1310720_latents(large):
    samples, z = large
    before = peak_memory_gib()
    z_tilde, info = metropolis.perturb(jax.random.key(2), samples, z, k_radius=LARGE["k_radius"])
    assert float(info.acceptance_rate) == pytest.approx(0.61, abs=0.06)  # the authors' code; 4 standard errors
    assert peak_memory_gib() - before < 1.5
    exact, _ = cKDTree(np.asarray(samples)).query(np.asarray(z[:64]), k=[8, 80])
    np.testing.assert_allclose(np.stack([info.density_distance, info.radius], 1)[:64], exact, rtol=1e-6)
    assert np.isfinite(z_tilde).all()


@pytest.mark.reliability
def test_brute_force_agrees_with_the_tree_on_1310720_latents(large):
    samples, z = large
    before = peak_memory_gib()
    found = brute_force.neighbor_distances(samples, z, (8, LARGE["k_radius"])).block_until_ready()
    assert peak_memory_gib() - before < 4
    expected = tree.neighbor_distances(samples, z, (8, LARGE["k_radius"]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
