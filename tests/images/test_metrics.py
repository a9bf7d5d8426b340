import importlib.resources
import io

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import skimage.metrics

from vpvae_jax.images.metrics import MAX_DB, psnr, ssim


def photograph(name):
    file = importlib.resources.files("skimage") / "data" / name
    pixels = np.asarray(PIL.Image.open(io.BytesIO(file.read_bytes())))[20:180, 90:290]
    return pixels.reshape(160, 200, -1)


def add_noise(pixels, sigma):
    noise = np.random.default_rng(1).normal(0, sigma, pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


def as_jpeg(pixels, quality):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels.squeeze()).save(buffer, "jpeg", quality=quality)
    return np.asarray(PIL.Image.open(buffer)).reshape(pixels.shape)


DISTORTIONS = {
    "one grey level": lambda x: np.where(x < 255, x + 1, x).astype(np.uint8),
    "brighter": lambda x: np.clip(x.astype(int) + 40, 0, 255).astype(np.uint8),
    "weak noise": lambda x: add_noise(x, 2),
    "strong noise": lambda x: add_noise(x, 50),
    "blur": lambda x: scipy.ndimage.gaussian_filter(x, (2, 2, 0)),
    "jpeg": lambda x: as_jpeg(x, 20),
    "negative": lambda x: 255 - x,
    "shift by two pixels": lambda x: np.roll(x, 2, axis=1),
    "black": np.zeros_like,
}


@pytest.fixture(params=["chelsea.png", "camera.png"])
def original(request):
    return photograph(request.param)


@pytest.mark.parametrize("name", DISTORTIONS)
class TestAgainstScikitImage:
    def test_psnr(self, original, name):
        distorted = DISTORTIONS[name](original)
        expected = skimage.metrics.peak_signal_noise_ratio(original, distorted, data_range=255)
        np.testing.assert_allclose(psnr(distorted[None], original[None]), [expected], atol=1e-4)

    def test_ssim(self, original, name):
        distorted = DISTORTIONS[name](original)
        expected = skimage.metrics.structural_similarity(
            original,
            distorted,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=-1,
            data_range=255,
        )
        np.testing.assert_allclose(ssim(distorted[None], original[None]), [expected], atol=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_each_image_of_a_batch_has_its_own_value(metric):
    original = photograph("chelsea.png")
    distorted = np.stack([original, add_noise(original, 5), add_noise(original, 30)])
    originals = np.stack([original] * 3)
    values = np.asarray(metric(distorted, originals))
    assert values.shape == (3,)
    assert values.dtype == np.float32
    alone = [metric(distorted[i : i + 1], originals[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(values, alone, rtol=1e-6)
    assert values[0] > values[1] > values[2]


def test_identical_images(original):
    np.testing.assert_array_equal(psnr(original[None], original[None]), [MAX_DB])  # so that means stay finite
    np.testing.assert_allclose(ssim(original[None], original[None]), [1.0], atol=1e-6)


def test_psnr_by_hand():
    """A squared error of 1 everywhere is 20 log10 255 dB, in whichever direction: uint8 must not wrap around."""
    black, dark = np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4, 3), np.uint8)
    for pair in ((black, dark), (dark, black)):
        np.testing.assert_allclose(psnr(*pair), [48.1308], atol=1e-4)
