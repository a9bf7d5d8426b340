import os
import subprocess
import sys
import textwrap

import pytest


@pytest.mark.slow
def test_searches_with_queries_sharded_over_eight_devices():
    code = textwrap.dedent("""
        import functools
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from vpvae_jax import neighbors
        from vpvae_jax.neighbors import brute_force, tiles
        from vpvae_jax.neighbors.kd_tree import KDTree

        assert jax.device_count() == 8
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rng = np.random.default_rng(0)
        samples, queries = (rng.normal(size=(n, 3)).astype(np.float32) for n in (2000, 8 * 20))
        sharded = jax.device_put(queries, NamedSharding(mesh, P("data")))
        replicated = jax.device_put(samples, NamedSharding(mesh, P()))
        ranks = (8, 48)
        expected = KDTree(samples).distances(queries, np.array(ranks))
        _, indices = KDTree(samples).neighbors(queries, np.array([5]))
        rank = jnp.full((160,), 5)
        for backend in (tiles, brute_force, neighbors):
            search = functools.partial(backend.neighbor_distances, ranks=ranks)
            by_shard_map = jax.shard_map(search, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
            for function in (search, by_shard_map):
                np.testing.assert_allclose(jax.jit(function)(replicated, sharded), expected, rtol=1e-6)
        for backend in (brute_force, neighbors):
            search = lambda s, q, r: (backend.neighbor_at_rank(s, q, r, 8), backend.nearest(s, q)[1])
            by_shard_map = jax.shard_map(search, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"))
            for function in (search, by_shard_map):
                found, distances = jax.jit(function)(replicated, sharded, rank)
                np.testing.assert_array_equal(found, indices[:, 0])
                np.testing.assert_allclose(distances, search(samples, queries, rank)[1], rtol=1e-6)
        for num_queries in (160, 157):  # what the devices divide, and what they do not
            steps = jnp.full((num_queries, 3), 0.5)
            some = queries[:num_queries]
            alone = neighbors.neighbor_distances_along(samples, some, steps, ranks)
            with jax.set_mesh(mesh):
                search = jax.jit(functools.partial(neighbors.neighbor_distances_along, ranks=ranks))
                some = sharded if num_queries == 160 else some
                program = search.lower(replicated, some, steps).compile()
                for mine, theirs in zip(search(replicated, some, steps), alone):
                    np.testing.assert_allclose(mine, theirs, rtol=1e-6)
            assert num_queries == 157 or "all-gather" not in program.as_text()
    """)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=200, check=True)
