import os
import subprocess
import sys
import textwrap

from tests import tiny


def test_large_parameters_are_cut_along_an_axis_that_the_devices_divide():
    code = textwrap.dedent("""
        import jax, jax.numpy as jnp
        from jax.sharding import PartitionSpec as P
        from vpvae_jax.runtime import processes
        from vpvae_jax.training.sharding import state_shardings
        from vpvae_jax.training.state import TrainState

        shapes = {
            "wide": (3, 3, 64, 256), "long": (4096, 128), "odd": (333, 777), "small": (8, 8), "scalar": (),
        }
        params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        memory = jax.ShapeDtypeStruct((2**20, 8), jnp.float32)
        key = jax.ShapeDtypeStruct((2,), jnp.uint32)
        state = TrainState(params["scalar"], params, None, (params, params["scalar"]), memory, key)
        for is_cut in (False, True):
            found = state_shardings(state, processes.data_mesh(), shard_params=is_cut)
            expected = {name: P() for name in shapes}
            if is_cut:
                expected |= {"wide": P(None, None, None, "data"), "long": P("data", None)}
            for tree in (found.params, found.opt_state[0]):
                assert {name: sharding.spec for name, sharding in tree.items()} == expected, tree
            assert found.quantizer_state.spec == found.key_data.spec == P()
            assert found.ema_params is None
    """)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tiny.ROOT, timeout=100, check=True)
