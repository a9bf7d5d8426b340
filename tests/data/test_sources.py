import errno
import io
import json
import os
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from vpvae_jax.data import sources
from vpvae_jax.data.prepared import image_source
from vpvae_jax.data.sources import fingerprint
from vpvae_jax.runtime.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def folder_source(path, split):
    return sources.folder_source(path, split, SUFFIXES, "image")


def tfds_source(name, split, data_dir=None):
    return image_source(name, split, data_dir, {})


def encoded_image(value=0, size=(8, 8), encoding="png"):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (value, 255 - value, 7)).save(buffer, encoding)
    return buffer.getvalue()


def write_images(folder, names):
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        encoding = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".png": "png"}[file.suffix.lower()]
        file.write_bytes(encoded_image(number, encoding=encoding))


def records_of(source):
    return [source[index] for index in range(len(source))]


def names_of(source):
    return [record.name for record in records_of(source)]


class TestFolderSource:
    def test_identity_is_of_names_and_fingerprint_of_contents_as_well(self, tmp_path):
        """The first and each further of at most 31 records are compared; a name may be no text."""
        write_images(tmp_path, [f"{number:02}.png" for number in range(40)])
        source = folder_source(str(tmp_path), "all")
        identity, before = source.identity(), fingerprint(source)
        assert fingerprint(folder_source(str(tmp_path), "all")) == before
        (tmp_path / "02.png").write_bytes(encoded_image(99))
        assert source.identity() == identity
        assert fingerprint(source) != before
        (tmp_path / "00.png").rename(tmp_path / "01b.png")
        renamed = folder_source(str(tmp_path), "all")
        assert renamed.identity() != identity
        os.rename(tmp_path / "02.png", os.fsencode(tmp_path) + b"/\xff.png")
        assert fingerprint(folder_source(str(tmp_path), "all")) != fingerprint(renamed)

    def test_finds_every_image_format_at_any_depth_and_nothing_else(self, tmp_path):
        images = ["b/c/4.webp", "a.jpg", "b/2.jpeg", "b/3.png", "b/c/5.JPG", "b/c/6.PNG", "7.Webp"]
        write_images(tmp_path, images)
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / "b" / "table.csv").write_text("1,2")
        (tmp_path / "folder.png").mkdir()  # a folder with the name of an image
        source = folder_source(str(tmp_path), "all")
        assert sorted(names_of(source)) == sorted(images)
        assert len(source) == len(images)

    def test_records_hold_the_bytes_of_the_file(self, tmp_path):
        write_images(tmp_path, ["a.png", "sub/b.jpg"])
        for record in folder_source(str(tmp_path), "all"):
            assert record.encoded == (tmp_path / record.name).read_bytes()

    def test_order_is_that_of_the_paths(self, tmp_path):
        write_images(tmp_path, ["c.png", "a.png", "b/z.png", "b/a.png"])
        assert names_of(folder_source(str(tmp_path), "all")) == ["a.png", "b/a.png", "b/z.png", "c.png"]

    def test_hidden_files_are_no_images(self, tmp_path):
        for name in ("a.png", "._a.png", ".b.png"):
            (tmp_path / name).write_bytes(b"")
        assert names_of(folder_source(str(tmp_path), "all")) == ["a.png"]

    def test_split_subfolders_are_the_splits(self, tmp_path):
        write_images(tmp_path, ["train/1.png", "train/deep/2.png", "validation/3.png", "test/4.png", "5.png"])
        assert names_of(folder_source(str(tmp_path), "train")) == ["train/1.png", "train/deep/2.png"]
        assert names_of(folder_source(str(tmp_path), "validation")) == ["validation/3.png"]
        assert names_of(folder_source(str(tmp_path), "test")) == ["test/4.png"]
        assert len(folder_source(str(tmp_path), "all")) == 5

    @pytest.mark.parametrize(("num_files", "num_held_out"), [(2, 1), (7, 1), (20, 1), (39, 1), (40, 2), (100, 5)])
    def test_without_subfolders_a_twentieth_is_held_out(self, tmp_path, num_files, num_held_out):
        write_images(tmp_path, [f"{number:03}.png" for number in range(num_files)])
        train = names_of(folder_source(str(tmp_path), "train"))
        validation = names_of(folder_source(str(tmp_path), "validation"))
        assert len(validation) == num_held_out
        assert len(train) == num_files - num_held_out
        assert set(train).isdisjoint(validation)
        assert sorted(train + validation) == names_of(folder_source(str(tmp_path), "all"))

    def test_hold_out_is_the_same_each_time(self, tmp_path):
        write_images(tmp_path, [f"{number:02}.png" for number in range(45)])
        assert names_of(folder_source(str(tmp_path), "validation")) == ["19.png", "39.png"]
        assert names_of(folder_source(str(tmp_path), "validation")) == ["19.png", "39.png"]

    def test_links_are_followed_and_no_folder_is_read_twice(self, tmp_path):
        write_images(tmp_path / "elsewhere", ["b.png"])
        write_images(tmp_path / "photos", ["a.png", "deep/c.png"])
        (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "photos" / "again").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "photos" / "deep" / "loop").symlink_to(tmp_path / "photos")
        (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        names = names_of(folder_source(str(tmp_path / "photos"), "all"))
        assert sorted(name.rpartition("/")[2] for name in names) == ["a.png", "b.png", "c.png"]

    def test_files_that_are_passed_over_are_named(self, tmp_path):
        write_images(tmp_path, ["a.png", "b.JPG"])
        for name in ("c.tif", "d.tif", "e.heic", "notes"):
            (tmp_path / name).touch()
        source = folder_source(str(tmp_path), "train")
        assert source.passed_over == {".tif": 2, ".heic": 1, "without a suffix": 1}
        expected = f"1 images of mine in {tmp_path} (passed over: 2 .tif, 1 .heic, 1 without a suffix)"
        assert sources.described(source, "images", "mine") == expected
        (tmp_path / "a.png").unlink()
        (tmp_path / "b.JPG").unlink()
        with pytest.raises(DataError, match=r"holds no image, but 2 \.tif, 1 \.heic, 1 without a suffix: expected"):
            folder_source(str(tmp_path), "all")

    @pytest.mark.parametrize(("number", "num_failures", "is_read"), [(errno.ESTALE, 2, True), (errno.EIO, 3, False)])
    def test_passing_errors_of_a_network_file_system_are_retried(
        self, tmp_path, monkeypatch, number, num_failures, is_read
    ):
        write_images(tmp_path, ["a.png"])
        source, left = folder_source(str(tmp_path), "all"), [number] * num_failures
        plain = pathlib.Path.read_bytes

        def read(path):
            if left:
                raise OSError(left.pop(), "failed")
            return plain(path)

        monkeypatch.setattr(pathlib.Path, "read_bytes", read)
        monkeypatch.setattr(sources, "_RETRY_SECONDS", (0.0, 0.0))
        assert bool(source[0].encoded) == is_read

    def test_a_file_that_vanishes_gives_an_empty_record(self, tmp_path):
        write_images(tmp_path, ["a.png", "b.png"])
        source = folder_source(str(tmp_path), "all")
        (tmp_path / "a.png").unlink()
        assert source[0] == ("a.png", b"")

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(DataError, match=r"nowhere is not a folder.*--config\.data\.path"):
            folder_source(str(tmp_path / "nowhere"), "train")

    def test_a_file_is_not_a_folder(self, tmp_path):
        write_images(tmp_path, ["a.png"])
        with pytest.raises(DataError, match=r"a\.png is not a folder"):
            folder_source(str(tmp_path / "a.png"), "train")

    @pytest.mark.parametrize("split", ["train", "validation", "all"])
    def test_folder_without_images(self, tmp_path, split):
        (tmp_path / "readme.md").write_text("")
        with pytest.raises(DataError, match=r"holds no image, but 1 \.md: expected \.jpg, \.jpeg, \.png, \.webp"):
            folder_source(str(tmp_path), split)

    def test_split_folder_without_images(self, tmp_path):
        write_images(tmp_path, ["train/a.png", "train/b.png"])
        (tmp_path / "validation").mkdir()
        with pytest.raises(DataError, match="validation holds no image"):
            folder_source(str(tmp_path), "validation")

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_single_image(self, tmp_path, split):
        write_images(tmp_path, ["only.png"])
        with pytest.raises(DataError, match="single image, which cannot be both trained and validated on"):
            folder_source(str(tmp_path), split)

    def test_missing_split_subfolder(self, tmp_path):
        write_images(tmp_path, ["train/a.png", "train/b.png"])
        with pytest.raises(DataError, match=r"no subfolder 'validation'.*--config\.eval\.splits"):
            folder_source(str(tmp_path), "validation")

    def test_a_plain_folder_has_no_test_split(self, tmp_path):
        write_images(tmp_path, ["a.png", "b.png"])
        with pytest.raises(DataError, match="no subfolder 'test'"):
            folder_source(str(tmp_path), "test")


class TinyCoco(tfds.core.GeneratorBasedBuilder):
    """The features of coco/2017 that matter here, on images of 8 x 8 pixels."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, version="1.0.0") for name in ("2014", "2017")]  # noqa: RUF012

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 10), "validation": self._generate_examples(10, 3)}

    def _generate_examples(self, first, num):
        for number in range(first, first + num):
            name = f"{number:012}.jpg"
            yield (
                name,
                {
                    "image": encoded_image(number, encoding="jpeg"),
                    "image/filename": name,
                    "image/id": number,
                },
            )


class TinyUnnamed(tfds.core.GeneratorBasedBuilder):
    """Images without names, and one feature too many to be confused with one."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(encoding_format="png"), "name": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(2):
            yield number, {"image": encoded_image(number), "name": number}


class TinyWithoutImages(tfds.core.GeneratorBasedBuilder):
    """A data set of labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"label": np.int64}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"label": 1}


def prepare(builder_class, data_dir, **kwargs):
    builder = builder_class(data_dir=str(data_dir), file_format="array_record", **kwargs)
    builder.download_and_prepare()
    return pathlib.Path(builder.data_path)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """(data_dir, prepared version directory) of a tiny coco/2017."""
    data_dir = tmp_path_factory.mktemp("tfds")
    return data_dir, prepare(TinyCoco, data_dir, config="2017")


class TestTfdsSource:
    def test_by_name_and_by_path_are_the_same(self, coco):
        data_dir, version = coco
        by_name = tfds_source("tiny_coco/2017", "train", str(data_dir))
        by_path = tfds_source(str(version), "train")
        assert len(by_name) == 10
        assert records_of(by_name) == records_of(by_path)

    def test_names_and_images_belong_together(self, coco):
        source = tfds_source(str(coco[1]), "validation")
        assert sorted(names_of(source)) == ["000000000010.jpg", "000000000011.jpg", "000000000012.jpg"]
        for record in records_of(source):
            assert record.encoded == encoded_image(int(record.name.partition(".")[0]), encoding="jpeg")

    def test_slices(self, coco):
        whole = names_of(tfds_source(str(coco[1]), "train"))
        assert names_of(tfds_source(str(coco[1]), "train[:30%]")) == whole[:3]
        assert names_of(tfds_source(str(coco[1]), "train[-2:]")) == whole[-2:]

    def test_images_without_a_name_are_called_after_split_and_position(self, tmp_path):
        source = tfds_source(str(prepare(TinyUnnamed, tmp_path)), "train")
        assert names_of(source) == ["train[0]", "train[1]"]

    def test_unknown_data_set(self, coco):
        with pytest.raises(DataError, match=r"no prepared TFDS data set 'tiny_imagenet'.*--file_format=array_record"):
            tfds_source("tiny_imagenet", "train", str(coco[0]))

    @pytest.mark.parametrize("split", ["minival", "train[", "train[:x%]"])
    def test_unknown_split_names_those_that_exist(self, coco, split):
        with pytest.raises(DataError, match=r"has no split .*: it has train, validation"):
            tfds_source(str(coco[1]), split)

    def test_can_be_iterated_over(self, coco):
        source = tfds_source(str(coco[1]), "validation")
        assert list(source) == records_of(source)

    def test_empty_slice(self, coco):
        with pytest.raises(DataError, match=r"'train\[:0\]'"):
            tfds_source(str(coco[1]), "train[:0]")

    def test_several_configs_below_one_name(self, tmp_path):
        for config in ("2014", "2017"):
            prepare(TinyCoco, tmp_path, config=config)
        with pytest.raises(DataError, match=r"several data sets \(2014, 2017\)"):
            tfds_source("tiny_coco", "train", str(tmp_path))
        assert len(tfds_source("tiny_coco/2014", "train", str(tmp_path))) == 10

    def test_tfrecord_cannot_be_read_at_random(self, tmp_path):
        # Writing tfrecord files needs TensorFlow; a reader only looks at the format that dataset_info.json states.
        version = prepare(TinyCoco, tmp_path, config="2017")
        info = json.loads((version / "dataset_info.json").read_text())
        info["fileFormat"] = "tfrecord"
        (version / "dataset_info.json").write_text(json.dumps(info))
        with pytest.raises(DataError, match=r"cannot be read at random: prepare it with --file_format=array_record"):
            tfds_source(str(version), "train")

    def test_data_set_without_images(self, tmp_path):
        version = prepare(TinyWithoutImages, tmp_path)
        with pytest.raises(DataError, match="has features label: expected one named image"):
            tfds_source(str(version), "train")
