"""`photos`: prepared on first use, and split so that nothing that is scored is trained on."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from vpvae_jax.data.prepared import image_source
from vpvae_jax.images import photos

OWN = {"photos": ("vpvae_jax.images.photos", "Photos")}


def tfds_source(split, data_dir):
    return image_source("photos", split, data_dir, OWN)


def records_of(source):
    return [source[index] for index in range(len(source))]


def names_of(source):
    return [record.name for record in records_of(source)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("photos"))
    tfds_source("train", data_dir)  # prepares it
    return data_dir


def overlap(first, second):
    """Pixels that two (left, upper, right, lower) boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


class TestPhotos:
    @pytest.mark.parametrize(("split", "num"), [("train", 13), ("validation", 7), ("test", 2)])
    def test_every_record_decodes(self, prepared, split, num):
        source = tfds_source(split, prepared)
        assert len(source) == num
        assert len(set(names_of(source))) == num
        for record in records_of(source):
            with PIL.Image.open(io.BytesIO(record.encoded)) as image:
                image.load()
                assert image.mode == "RGB"
                if split == "train":
                    assert min(image.size) >= photos.MIN_TRAIN_SIDE
                elif split == "validation":
                    assert image.size == (photos.VALIDATION_SIZE, photos.VALIDATION_SIZE)

    def test_no_test_photograph_is_trained_on(self, prepared):
        def photographs(split):
            return {name.rpartition("-")[0] for name in names_of(tfds_source(split, prepared))}

        assert photographs("test") == {name.partition(".")[0] for name in photos.TEST_PHOTOS}
        assert photographs("validation") == {name.partition(".")[0] for name in photos.TRAIN_PHOTOS}
        assert photographs("train").isdisjoint(photographs("test"))
        assert photographs("validation").isdisjoint(photographs("test"))

    @pytest.mark.parametrize("name", photos.TRAIN_PHOTOS)
    def test_validation_corner_is_not_trained_on(self, name):
        size = photos._open_photo(name).size
        train = dict(photos._boxes("train", *size))
        ((_, corner),) = photos._boxes("validation", *size)
        assert train, "the photograph gives nothing to train on"
        boxes = [*train.values(), corner]
        for box in boxes:
            assert 0 <= box[0] < box[2] <= size[0]
            assert 0 <= box[1] < box[3] <= size[1]
        for number, box in enumerate(boxes):
            assert all(overlap(box, other) == 0 for other in boxes[number + 1 :])

    def test_regions_hold_the_pixels_of_the_photograph(self, prepared):
        astronaut = np.asarray(photos._open_photo("astronaut.png"))  # 512 x 512
        boxes = {
            ("train", "astronaut-left"): astronaut[:, :256],
            ("train", "astronaut-above"): astronaut[:256, 256:],
            ("validation", "astronaut-corner"): astronaut[256:, 256:],
            ("test", "chelsea-whole"): np.asarray(photos._open_photo("chelsea.png")),
        }
        for (split, name), expected in boxes.items():
            records = records_of(tfds_source(split, prepared))
            encoded = next(record.encoded for record in records if record.name == name)
            np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(encoded))), expected)

    def test_is_prepared_once(self, prepared):
        before = {file: file.stat().st_mtime_ns for file in pathlib.Path(prepared).rglob("*.array_record*")}
        tfds_source("test", prepared)
        after = {file: file.stat().st_mtime_ns for file in pathlib.Path(prepared).rglob("*.array_record*")}
        assert before == after
        assert len(before) == 3


@pytest.mark.system
def test_photos_prepared_by_several_processes_at_once(tmp_path):
    code = (
        f"import sys; from vpvae_jax.data.prepared import image_source; print(len(image_source(*sys.argv[1:], {OWN})))"
    )
    words = [sys.executable, "-c", code, "photos", "train", tmp_path]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.split()[-1] == "13"
