"""Eight devices give what one gives: on Auto axes, on Explicit axes, and inside a caller's `shard_map`.

On a mesh of one device JAX checks the same types; `test_protocol.py` traces every method there.
"""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import vpvae_jax

SETUP = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    import vpvae_jax

    assert jax.device_count() == 8
    key = jax.random.key(0)
    mesh = jax.make_mesh((8,), ("data",))
    auto = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    z = jax.random.normal(jax.random.key(1), (64, 3))
    sharded = jax.device_put(z, NamedSharding(mesh, P("data")))
    memory = vpvae_jax.memory_init(key, 512, 3)

    def assert_rows(array):
        assert jax.typeof(array).sharding.spec[0] == "data", jax.typeof(array)
"""

EXPLICIT = """
    assert mesh.axis_types == (AxisType.Explicit,)
    searches = {
        "perturb": lambda z: vpvae_jax.perturb(key, memory.samples, z, k_radius=48),
        "neighbor": lambda z: vpvae_jax.perturb_to_neighbor(key, memory.samples, z, k_radius=48),
        "distances": lambda z: (vpvae_jax.neighbor_distances(memory.samples, z, (1, 8)),),
        "assign": lambda z: (vpvae_jax.assign(memory.samples[:16], z),),
        "assign 3d": lambda z: (vpvae_jax.assign(memory.samples[:16], jnp.stack([z] * 2, axis=1)),),
    }
    for name, search in searches.items():
        alone = search(z)
        for function in (search, jax.jit(search)):
            found = function(sharded)
            jax.tree.map(np.testing.assert_array_equal, found, alone)
            assert_rows(found[0])
    pushed, alone = (vpvae_jax.memory_push(memory, latents) for latents in (sharded, z))
    jax.tree.map(np.testing.assert_array_equal, pushed, alone)
    slope = jax.jit(jax.grad(lambda z: (searches["perturb"](z)[0] ** 2).sum()))(sharded)
    np.testing.assert_array_equal(slope, 2 * searches["perturb"](z)[0])
    _, info = vpvae_jax.kmeans(key, z, 8)
    codebook, sharded_info = vpvae_jax.kmeans(key, sharded, 8)
    np.testing.assert_allclose(sharded_info.mean_squared_distance, info.mean_squared_distance, rtol=1e-5)

    with jax.set_mesh(mesh):  # here every array has the mesh
        np.testing.assert_array_equal(searches["perturb"](sharded)[0], searches["perturb"](z)[0])
        np.testing.assert_array_equal(jax.jit(searches["perturb"])(z)[0], jax.jit(searches["perturb"])(sharded)[0])

    for name in ("vp", "fsp", "vq"):  # test_protocol.py traces every method on a mesh of one device
        from vpvae_jax.quantizers import paper
        factory = vpvae_jax.QUANTIZERS[name]
        quantizer = factory(**paper.settings(factory, 16))
        params, state = quantizer.init(key)
        x = jax.random.normal(jax.random.key(2), (64, quantizer.input_dim))
        cut = jax.device_put(x, NamedSharding(mesh, P("data")))
        train = jax.jit(quantizer.train)
        alone, found = train(params, state, x, key), train(params, state, cut, key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, alone)
        assert_rows(found[0])
        codebook = quantizer.fit(params, state, quantizer.project(x), key)
        indices = quantizer.encode(codebook, quantizer.project(cut))
        assert_rows(indices)
        np.testing.assert_array_equal(indices, quantizer.encode(codebook, quantizer.project(x)))
        np.testing.assert_array_equal(quantizer.decode(codebook, indices), codebook[np.asarray(indices)])
"""

SHARD_MAP = """
    # Each device fits its own share of the points.
    points = jax.random.normal(jax.random.key(3), (8 * 64, 3))
    for devices in (mesh, auto):
        fit = jax.shard_map(
            lambda points: vpvae_jax.kmeans(key, points, 4)[0], mesh=devices, in_specs=P("data"), out_specs=P("data")
        )
        cut = NamedSharding(devices, P("data"))
        found = np.asarray(jax.jit(fit)(jax.device_put(points, cut))).reshape(8, 4, 3)
        for i in range(8):
            alone, _ = vpvae_jax.kmeans(key, points[64 * i : 64 * (i + 1)], 4)
            np.testing.assert_allclose(found[i], alone, rtol=1e-5, atol=1e-6)
        step = lambda samples, z: vpvae_jax.perturb(key, samples, z, k_radius=48)[0]
        sharded_step = jax.shard_map(step, mesh=devices, in_specs=(P(), P("data")), out_specs=P("data"))
        samples = jax.device_put(memory.samples, NamedSharding(devices, P()))
        moved = jax.jit(sharded_step)(samples, jax.device_put(z, cut))
        expected = jnp.concatenate([step(memory.samples, share) for share in jnp.split(z, 8)])
        np.testing.assert_array_equal(moved, expected)
"""

AUTO = """
    import functools
    from vpvae_jax import neighbors
    from vpvae_jax.codebooks import kmeans
    from vpvae_jax.neighbors.cpu.kd_tree import KDTree
    from vpvae_jax.neighbors.xla import brute_force, tiles

    rng = np.random.default_rng(0)
    samples, queries = (rng.normal(size=(n, 3)).astype(np.float32) for n in (2000, 8 * 20))
    sharded = jax.device_put(queries, NamedSharding(auto, P("data")))
    replicated = jax.device_put(samples, NamedSharding(auto, P()))
    ranks = (8, 48)
    expected = KDTree(samples).distances(queries, np.array(ranks))
    _, indices = KDTree(samples).neighbors(queries, np.array([5]))
    rank = jnp.full((160,), 5)
    for backend in (tiles, brute_force, neighbors):
        search = functools.partial(backend.neighbor_distances, ranks=ranks)
        by_shard_map = jax.shard_map(search, mesh=auto, in_specs=(P(), P("data")), out_specs=P("data"))
        for function in (search, by_shard_map):
            np.testing.assert_allclose(jax.jit(function)(replicated, sharded), expected, rtol=1e-6)
    for backend in (brute_force, neighbors):
        search = lambda s, q, r: (backend.neighbor_at_rank(s, q, r, 8), backend.nearest(s, q)[1])
        by_shard_map = jax.shard_map(search, mesh=auto, in_specs=(P(), P("data"), P("data")), out_specs=P("data"))
        for function in (search, by_shard_map):
            found, distances = jax.jit(function)(replicated, sharded, rank)
            np.testing.assert_array_equal(found, indices[:, 0])
            np.testing.assert_allclose(distances, search(samples, queries, rank)[1], rtol=1e-6)
    for num_queries in (160, 157):  # what the devices divide, and what they do not
        steps = jnp.full((num_queries, 3), 0.5)
        some = queries[:num_queries]
        alone = neighbors.neighbor_distances_along(samples, some, steps, ranks)
        with jax.set_mesh(auto):
            search = jax.jit(functools.partial(neighbors.neighbor_distances_along, ranks=ranks))
            some = sharded if num_queries == 160 else some
            program = search.lower(replicated, some, steps).compile()
            for mine, theirs in zip(search(replicated, some, steps), alone):
                np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        assert num_queries == 157 or "all-gather" not in program.as_text()

    points = jax.random.normal(jax.random.key(0), (8 * 512, 3))
    sharded = jax.device_put(points, NamedSharding(auto, P("data")))
    for max_direct in (2**28, 0):  # seeds from k-means++, from k-means||
        kmeans._MAX_DIRECT = max_direct
        kmeans._kmeans.clear_cache()
        (_, alone), (codebook, info) = (kmeans.kmeans(jax.random.key(1), p, 64) for p in (points, sharded))
        assert codebook.shape == (64, 3) and int(info.num_empty) == 0
        np.testing.assert_allclose(info.mean_squared_distance, alone.mean_squared_distance, rtol=0.01)
        indices = kmeans.assign(codebook, sharded)
        np.testing.assert_array_equal(indices, kmeans.assign(np.asarray(codebook), points))
"""


@pytest.mark.system
@pytest.mark.parametrize("code", [EXPLICIT, SHARD_MAP, AUTO], ids=["explicit", "shard_map", "auto"])
def test_eight_devices(code):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    code = textwrap.dedent(SETUP) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=400, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def mesh():
    """The default mesh of one device, with an Explicit axis; a batch of latents on it; the samples of a memory."""
    mesh = jax.make_mesh((1,), ("data",))
    z = jax.random.normal(jax.random.key(1), (64, 3))
    return mesh, jax.device_put(z, NamedSharding(mesh, P("data"))), vpvae_jax.memory_init(jax.random.key(0), 512, 3)


KEY = jax.random.key(0)
SEARCHES = {
    "perturb": lambda samples, z: vpvae_jax.perturb(KEY, samples, z, k_radius=48)[0],
    "neighbor": lambda samples, z: vpvae_jax.perturb_to_neighbor(KEY, samples, z, k_radius=48)[0],
    "distances": lambda samples, z: vpvae_jax.neighbor_distances(samples, z, (1, 8)),
    "assign": lambda samples, z: vpvae_jax.assign(samples[:16], z),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_explicit_axes_and_shard_map_of_one_device(mesh, name):
    """Only traced: that is where JAX raises."""
    mesh, z, memory = mesh

    def search(z):
        found = SEARCHES[name](memory.samples, z)
        assert jax.typeof(found).sharding.spec[0] == "data"
        return found

    jax.eval_shape(search, z)
    alone = jax.eval_shape(SEARCHES[name], memory.samples, z)
    by_share = jax.shard_map(SEARCHES[name], mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    assert jax.eval_shape(by_share, memory.samples, z).shape == alone.shape


def test_kmeans_and_the_memory_on_one_device_with_explicit_axes(mesh):
    mesh, z, memory = mesh
    jax.eval_shape(lambda z: vpvae_jax.kmeans(KEY, z, 4), z)
    fit = jax.shard_map(lambda z: vpvae_jax.kmeans(KEY, z, 4)[0], mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert jax.eval_shape(fit, z).shape == (4, 3)
    pushed = vpvae_jax.memory_push(memory, z)
    np.testing.assert_array_equal(pushed.samples, vpvae_jax.memory_push(memory, jnp.asarray(np.asarray(z))).samples)
