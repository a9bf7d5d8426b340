import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpvae_jax.models.autoencoder import Autoencoder
from vpvae_jax.models.vqgan import AttentionBlock, Downsample, ResBlock, Upsample, VQGANDecoder, VQGANEncoder


def small_autoencoder(
    *, channels=8, channel_multipliers=(1, 2), norm="group", dtype=jnp.float32, attention=True, input_dim=3
):
    shared = {
        "channels": channels,
        "channel_multipliers": channel_multipliers,
        "num_res_blocks": 1,
        "attention_levels": (len(channel_multipliers) - 1,) if attention else (),
        "middle_attention": attention,
        "norm": norm,
        "dtype": dtype,
    }
    encoder, decoder = VQGANEncoder(z_channels=6, **shared), VQGANDecoder(**shared)
    return Autoencoder(encoder, decoder, feature_dim=6, input_dim=input_dim)


def noise(*shape, seed=0):
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0, maxval=1.0)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@functools.cache
def shapes_of(network, *shape):
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))["params"]


def random_params(network, *shape):
    """Weights of unit gain and non-zero biases; much faster to make than by `init`, which compiles every layer."""
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        is_scale = "'scale'" in jax.tree_util.keystr(path)
        return jnp.asarray(is_scale + rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(network, *shape))


@functools.partial(jax.jit, static_argnums=0)
def encode(network, params, images):
    return network.apply({"params": params}, images, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def reconstruct(network, params, images):
    return network.apply({"params": params}, images)


class TestPaperNetwork:
    @pytest.mark.parametrize(
        ("channel_multipliers", "z_channels", "millions"),
        [((1, 2, 2, 4), 4, 67.65), ((1, 1, 2, 4), 256, 64.79), ((1, 2, 2, 4), 256, 70.11)],
    )
    def test_number_of_parameters(self, channel_multipliers, z_channels, millions):
        network = Autoencoder(
            VQGANEncoder(channel_multipliers=channel_multipliers, z_channels=z_channels),
            VQGANDecoder(channel_multipliers=channel_multipliers),
            feature_dim=z_channels,
            input_dim=z_channels,
        )
        assert count(shapes_of(network, 1, 256, 256, 3)) / 1e6 == pytest.approx(millions, abs=0.01)

    def test_parts(self):
        params = shapes_of(Autoencoder(VQGANEncoder(), VQGANDecoder(), 4, 4), 1, 256, 256, 3)
        assert set(params) == {"encoder", "decoder", "down", "up"}
        # The published encoder and decoder include the 1 x 1 convolutions beside the quantizer.
        assert count([params["encoder"], params["down"]]) / 1e6 == pytest.approx(27.40, abs=0.01)
        assert count([params["decoder"], params["up"]]) / 1e6 == pytest.approx(40.25, abs=0.01)
        assert count(params) == 67_651_759

    @pytest.mark.system
    def test_tokens_of_256_pixels(self):
        network = Autoencoder(VQGANEncoder(), VQGANDecoder(), 4, 4)
        images = jnp.zeros((1, 256, 256, 3))

        def forward(key):
            variables = network.init(key, images)
            return network.apply(variables, images, method="encode"), network.apply(variables, images)

        z, reconstruction = jax.eval_shape(forward, jax.random.key(0))
        assert z.shape == (1, 32, 32, 4)
        assert reconstruction.shape == (1, 256, 256, 3)

    def test_attention_is_where_it_was_published(self):
        params = shapes_of(Autoencoder(VQGANEncoder(), VQGANDecoder(), 4, 4), 1, 256, 256, 3)
        num_attention = {part: sum("Attention" in name for name in params[part]) for part in ("encoder", "decoder")}
        num_res = {part: sum("ResBlock" in name for name in params[part]) for part in ("encoder", "decoder")}
        assert num_attention == {"encoder": 2 + 1, "decoder": 3 + 1}
        assert num_res == {"encoder": 4 * 2 + 2, "decoder": 4 * 3 + 2}


class TestShapes:
    @pytest.mark.parametrize(
        ("channel_multipliers", "height", "width", "tokens"),
        [((1,), 5, 7, (5, 7)), ((1, 2), 6, 10, (3, 5)), ((1, 1, 2), 12, 20, (3, 5)), ((1, 1, 1, 2), 8, 24, (1, 3))],
    )
    def test_odd_multiples_of_the_stride(self, channel_multipliers, height, width, tokens):
        network = small_autoencoder(channel_multipliers=channel_multipliers, input_dim=10)
        images = jnp.zeros((2, height, width, 3))

        def forward():
            variables = network.init(jax.random.key(0), images)
            z = network.apply(variables, images, method="encode")
            return z, network.apply(variables, z, method="decode")

        z, reconstruction = jax.eval_shape(forward)
        assert z.shape == (2, *tokens, 10)
        assert reconstruction.shape == images.shape

    @pytest.mark.system
    def test_output_has_no_bound(self):
        """No tanh at the end: scaling the last layer scales the output."""
        network = small_autoencoder()
        params = random_params(network, 1, 16, 16, 3)
        last = jax.tree.map(lambda p: 20 * p, params["decoder"]["out"])
        scaled_params = params | {"decoder": params["decoder"] | {"out": last}}
        once, scaled = (reconstruct(network, p, noise(1, 8, 8, 3)) for p in (params, scaled_params))
        assert jnp.abs(scaled).max() > 1
        np.testing.assert_allclose(scaled, 20 * once, rtol=1e-4, atol=1e-4)


class TestLayers:
    def test_downsampling_pads_right_and_below(self):
        params = {"Conv_0": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}
        out = Downsample().apply({"params": params}, jnp.ones((1, 4, 4, 1)))
        np.testing.assert_array_equal(out[0, :, :, 0], [[9, 6], [6, 4]])

    def test_upsampling_repeats_each_pixel(self):
        centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
        params = {"Conv_0": {"kernel": centre, "bias": jnp.zeros(1)}}
        out = Upsample().apply({"params": params}, jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None])
        np.testing.assert_array_equal(out[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])

    def test_attention_by_hand(self):
        x = noise(2, 3, 4, 8)
        params = random_params(AttentionBlock("layer"), *x.shape)
        flat = np.asarray(x, np.float64).reshape(2, 12, 8)
        h = (flat - flat.mean(-1, keepdims=True)) / np.sqrt(flat.var(-1, keepdims=True) + 1e-6)
        params = jax.tree.map(np.asarray, params)
        h = h * params["LayerNorm_0"]["scale"] + params["LayerNorm_0"]["bias"]
        query, key, value = (h @ params[n]["kernel"] + params[n]["bias"] for n in ("query", "key", "value"))
        scores = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(8))
        mixed = scores / scores.sum(-1, keepdims=True) @ value
        expected = flat + mixed @ params["out"]["kernel"] + params["out"]["bias"]
        actual = jax.jit(AttentionBlock("layer").apply)({"params": params}, x)
        np.testing.assert_allclose(actual.reshape(2, 12, 8), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("channels", "features", "has_shortcut"), [(8, 8, False), (8, 16, True)])
    def test_shortcut_only_where_the_width_changes(self, channels, features, has_shortcut):
        params = shapes_of(ResBlock(features), 1, 4, 4, channels)
        assert ("shortcut" in params) == has_shortcut

    @pytest.mark.parametrize(("width", "num_groups"), [(64, 32), (32, 32), (24, 8), (7, 1)])
    def test_groups_of_narrow_networks(self, width, num_groups):
        x = noise(1, 6, 6, width)
        block = ResBlock(width)
        params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes_of(block, *x.shape))
        params["GroupNorm_0"]["bias"] = jnp.zeros(width)

        @jax.jit
        def normalized(x):
            _, captured = block.apply({"params": params}, x, capture_intermediates=True)
            return captured["intermediates"]["GroupNorm_0"]["__call__"][0]

        grouped = np.asarray(x, np.float64).reshape(36, num_groups, width // num_groups)
        expected = (grouped - grouped.mean((0, 2), keepdims=True)) / grouped.std((0, 2), keepdims=True)
        np.testing.assert_allclose(normalized(x).reshape(expected.shape), expected, rtol=1e-3, atol=1e-3)


class TestSizeOfTheImage:
    """What a small training crop teaches must hold for a large image."""

    @staticmethod
    def interior_difference(norm):
        network = small_autoencoder(norm=norm, attention=False)
        image = noise(1, 72, 72, 3)
        # The crop is half as contrasted as its surroundings, as a part of a photograph may be.
        image = image.at[:, 12:60, 12:60].multiply(0.5)
        crop = image[:, 12:60, 12:60]
        params = random_params(network, 1, 16, 16, 3)
        # 10 tokens from the border the encoder sees nothing outside the crop.
        whole = encode(network, params, image)[:, 6:30, 6:30][:, 10:-10, 10:-10]
        part = encode(network, params, crop)[:, 10:-10, 10:-10]
        return float(jnp.abs(whole - part).max())

    def test_layer_norm_does_not_see_it(self):
        assert self.interior_difference("layer") < 1e-5

    def test_group_norm_sees_it(self):
        assert self.interior_difference("group") > 1e-2


@pytest.fixture(scope="module")
def results():
    """Reconstruction and gradient of the same parameters in either type."""
    images = noise(2, 8, 8, 3).at[0].set(-1.0)  # one of them black

    def loss(params, network):
        reconstruction = network.apply({"params": params}, images)
        return jnp.mean((reconstruction - images) ** 2), reconstruction

    step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    params = random_params(small_autoencoder(), 1, 8, 8, 3)
    return {dtype: step(params, small_autoencoder(dtype=dtype)) for dtype in (jnp.float32, jnp.bfloat16)}


class TestPrecision:
    def test_parameters_are_float32(self):
        shapes = shapes_of(small_autoencoder(dtype=jnp.bfloat16), 1, 16, 16, 3)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}

    def test_latents_and_reconstruction_are_float32_around_a_bfloat16_network(self):
        network = small_autoencoder(dtype=jnp.bfloat16)
        images = jnp.zeros((2, 16, 16, 3))

        def forward():
            variables = network.init(jax.random.key(0), images)
            z, captured = network.apply(variables, images, method="encode", capture_intermediates=True)
            return z, network.apply(variables, z, method="decode"), captured["intermediates"]["encoder"]

        z, reconstruction, encoder = jax.eval_shape(forward)
        assert z.dtype == jnp.float32
        assert reconstruction.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(encoder)} == {jnp.dtype("bfloat16")}

    @pytest.mark.system
    def test_bfloat16_stays_near_float32(self, results):
        exact, rough = (results[dtype][1] for dtype in (jnp.float32, jnp.bfloat16))
        relative_error = jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact)
        assert 1e-5 < relative_error < 0.05

    @pytest.mark.system
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_gradients_are_finite_and_reach_every_parameter(self, results, dtype):
        for path, gradient in jax.tree_util.tree_leaves_with_path(results[dtype][0]):
            assert gradient.dtype == jnp.float32
            assert jnp.isfinite(gradient).all(), path
            assert (gradient != 0).any(), path


@pytest.mark.system
def test_images_of_a_batch_do_not_mix():
    network = small_autoencoder()
    params, images = random_params(network, 1, 16, 16, 3), noise(3, 8, 8, 3)
    whole = reconstruct(network, params, images)
    for number in range(3):
        alone = reconstruct(network, params, images[number : number + 1])
        np.testing.assert_allclose(whole[number : number + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.system
def test_rematerialised_blocks_have_the_same_parameters_and_keep_less():
    params, num_kept = {}, {}
    for remat in (False, True):
        shared = {"channels": 8, "channel_multipliers": (1, 2), "attention_levels": (1,), "remat": remat}
        network = Autoencoder(VQGANEncoder(**shared), VQGANDecoder(**shared), feature_dim=4, input_dim=3)

        def gradient(params, images, network=network):
            return jax.vjp(lambda params: network.apply({"params": params}, images).var(), params)[1]

        params[remat] = shapes_of(network, 1, 64, 64, 3)
        images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        num_kept[remat] = count(jax.eval_shape(gradient, params[remat], images))
    assert params[False] == params[True]
    assert num_kept[True] < 0.3 * num_kept[False]
