import io
import logging
import threading

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

from vpvae_jax.data.sources import FolderSource, Record
from vpvae_jax.images.decoding import ImageDecoder, check_sizes, eval_images, train_batches
from vpvae_jax.runtime.errors import DataError
from vpvae_jax.runtime.processes import ALONE, Process


def encode(pixels, encoding="png", **kwargs):
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, encoding, **kwargs)
    return buffer.getvalue()


def plain_records(num, size=8):
    """Images of one colour each: record i is grey level i everywhere, so a batch tells which records it holds."""
    return [Record(f"{i}.png", encode(np.full((size, size, 3), i, np.uint8))) for i in range(num)]


def noise_records(num, height=24, width=20):
    rng = np.random.default_rng(5)
    return [Record(f"{i}.png", encode(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))) for i in range(num)]


def position_image(height, width):
    """Every pixel says where it is: (row, column, 0)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


def take(iterator, num):
    return np.stack([next(iterator) for _ in range(num)])


def damaged_records():
    good = encode(position_image(16, 16))
    return {
        "truncated.png": good[: len(good) // 2],
        "truncated.jpg": encode(position_image(16, 16), "jpeg")[:200],
        "zero.jpg": b"",
        "text.png": b"this is not an image",
    }


class CountingSource(list):
    """Counts reads of each record; refuses to be read for ever, so that an endless loop becomes a failure."""

    max_reads = 2000

    def __init__(self, records):
        super().__init__(records)
        self.reads = [0] * len(records)

    def __getitem__(self, index):
        self.reads[index] += 1
        if sum(self.reads) > self.max_reads:
            raise AssertionError(f"records were read {self.max_reads} times without a result")
        return super().__getitem__(index)


def outcome_within(seconds, function):
    """What `function()` returns or the exception it raises; fails if it takes longer."""
    outcome = []

    def call():
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"no result after {seconds} s"
    return outcome[0]


class TestTrainBatches:
    def test_shape_and_type(self):
        batch = next(train_batches(noise_records(5), batch_size=3, crop=16))
        assert batch.shape == (3, 16, 16, 3)
        assert batch.dtype == np.uint8

    def test_same_seed_same_batches(self):
        records = noise_records(5)
        first = take(train_batches(records, batch_size=3, crop=16, seed=3), 6)
        second = take(train_batches(records, batch_size=3, crop=16, seed=3), 6)
        np.testing.assert_array_equal(first, second)

    def test_number_of_threads_does_not_matter(self):
        records = noise_records(5)
        first = take(train_batches(records, batch_size=3, crop=16, num_threads=1), 6)
        second = take(train_batches(records, batch_size=3, crop=16, num_threads=4), 6)
        np.testing.assert_array_equal(first, second)

    def test_another_seed_gives_another_order(self):
        records = plain_records(32)
        first = take(train_batches(records, batch_size=32, crop=8, seed=3), 1)
        second = take(train_batches(records, batch_size=32, crop=8, seed=4), 1)
        assert (first[0, :, 0, 0, 0] != second[0, :, 0, 0, 0]).any()

    def test_another_seed_gives_other_crops(self):
        records = [Record("one.png", encode(position_image(24, 24)))]
        first, second = (take(train_batches(records, batch_size=16, crop=8, seed=seed), 1) for seed in (3, 4))
        assert (first != second).any()

    @pytest.mark.parametrize("batch_size", [4, 5])  # 4 divides 12, 5 lets batches straddle epochs
    def test_each_record_once_an_epoch_in_an_order_of_its_own(self, batch_size):
        num, num_epochs = 12, 5
        batches = take(train_batches(plain_records(num), batch_size=batch_size, crop=8), num * num_epochs // batch_size)
        epochs = batches[..., 0, 0, 0].reshape(num_epochs, num)
        np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(num), (num_epochs, 1)))
        assert len({tuple(epoch) for epoch in epochs}) == num_epochs
        assert not any((epoch == np.arange(num)).all() for epoch in epochs)

    @pytest.mark.parametrize("num_before", [0, 1, 4, 7])
    def test_resumes_in_the_middle_of_an_epoch(self, num_before):
        def fresh():
            return train_batches(noise_records(11), batch_size=3, crop=16, seed=8)

        iterator = fresh()
        for _ in range(num_before):
            next(iterator)
        state = iterator.get_state()
        expected = take(iterator, 6)
        other = fresh()
        other.set_state(state)
        np.testing.assert_array_equal(take(other, 6), expected)
        iterator.set_state(state)  # and the same iterator, turned back
        np.testing.assert_array_equal(take(iterator, 6), expected)

    def test_resumes_behind_unreadable_images(self):
        records = noise_records(5) + [Record("bad.png", b"bad")]
        iterator = train_batches(records, batch_size=3, crop=16)
        take(iterator, 3)
        state = iterator.get_state()
        expected = take(iterator, 4)
        other = train_batches(records, batch_size=3, crop=16)
        other.set_state(state)
        np.testing.assert_array_equal(take(other, 4), expected)

    @pytest.mark.parametrize("count", [2, 3])
    def test_processes_read_the_rows_of_the_batch_that_one_would_read(self, count):
        def batches(process):
            return take(train_batches(noise_records(11), batch_size=6, crop=16, seed=8, process=process), 7)

        rows = [batches(Process(index, count)) for index in range(count)]
        np.testing.assert_array_equal(np.concatenate(rows, axis=1), batches(ALONE))

    def test_a_process_resumes_where_it_was(self):
        def fresh():
            return train_batches(noise_records(11), batch_size=6, crop=16, seed=8, process=Process(1, 2))

        iterator = fresh()
        take(iterator, 3)
        state = iterator.get_state()
        other = fresh()
        other.set_state(state)
        np.testing.assert_array_equal(take(other, 4), take(iterator, 4))

    def test_a_process_fills_its_rows_where_images_cannot_be_read(self):
        """From its own later places: no image twice for it."""
        records = plain_records(24)
        records[3] = records[11] = Record("bad.png", b"bad")
        rows = [
            take(train_batches(records, batch_size=4, crop=8, process=Process(index, 2)), 5)[..., 0, 0, 0].ravel()
            for index in range(2)
        ]
        read = np.concatenate(rows)[: 2 * 10]
        assert all(len(values) == 10 for values in rows)
        assert not {3, 11} & set(read)
        assert len(set(read)) == 20

    def test_crops_lie_anywhere_in_the_image(self):
        image = position_image(12, 14)
        iterator = train_batches([Record("one.png", encode(image))], batch_size=200, crop=8, flip=False)
        crops = next(iterator)
        corners = {tuple(crop[0, 0, :2]) for crop in crops}
        assert corners == {(top, left) for top in range(5) for left in range(7)}
        for crop in crops:
            top, left = crop[0, 0, :2]
            np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])

    def test_half_of_the_images_are_mirrored(self):
        image = position_image(8, 8)
        crops = next(train_batches([Record("one.png", encode(image))], batch_size=400, crop=8))
        is_mirrored = np.array([(crop == image[:, ::-1]).all() for crop in crops])
        is_plain = np.array([(crop == image).all() for crop in crops])
        assert (is_mirrored ^ is_plain).all()
        assert abs(is_mirrored.mean() - 0.5) < 0.1  # 4 standard deviations of 400 coin tosses

    def test_flip_off(self):
        image = position_image(8, 8)
        crops = next(train_batches([Record("one.png", encode(image))], batch_size=64, crop=8, flip=False))
        assert (crops == image).all()

    @pytest.mark.parametrize("cache_bytes", [24 * 20 * 3 * 2, 2**20])  # room for two images, for all
    def test_cache_changes_nothing(self, cache_bytes):
        records = noise_records(6)
        plain = take(train_batches(records, batch_size=4, crop=16, cache_bytes=0), 6)
        cached = take(train_batches(records, batch_size=4, crop=16, cache_bytes=cache_bytes), 6)
        np.testing.assert_array_equal(cached, plain)

    def test_resize_comes_before_the_crop(self):
        records = [Record("one.png", encode(position_image(64, 96)))]
        crops = next(train_batches(records, batch_size=8, crop=32, resize=32, flip=False))
        # At half size, columns are two steps apart and rows are all there.
        assert {int(crop[0, 0, 0]) for crop in crops} <= {0, 1}
        assert (crops[:, -1, 0, 0] >= 61).all()


class TestDamagedImages:
    def test_are_skipped_and_named_once(self, caplog):
        damaged = damaged_records()
        records = plain_records(6, size=16) + [Record(name, encoded) for name, encoded in damaged.items()]
        with caplog.at_level(logging.WARNING, logger="vpvae_jax"):
            batches = take(train_batches(records, batch_size=4, crop=16, flip=False), 6)  # four epochs of six
        seen = batches[..., 0, 0, 0]
        assert batches.shape == (6, 4, 16, 16, 3)
        np.testing.assert_array_equal(np.sort(seen.reshape(4, 6), axis=1), np.tile(np.arange(6), (4, 1)))
        messages = [r.getMessage() for r in caplog.records if r.name.startswith("vpvae_jax")]
        assert len(messages) == len(damaged)
        for name in damaged:
            assert sum(name in message for message in messages) == 1

    def test_are_counted(self):
        damaged = damaged_records()
        records = [Record(name, encoded) for name, encoded in damaged.items()] + plain_records(3, size=16)
        decoder = ImageDecoder()
        names = [name for name, _ in eval_images(records, decoder, crop=16)]
        assert names == ["0.png", "1.png", "2.png"]
        assert {reason.partition(": ")[0] for reason in decoder.unreadable.values()} == set(damaged)
        assert "zero.jpg: empty file" in decoder.unreadable.values()
        assert all(reason.partition(": ")[2] for reason in decoder.unreadable.values())

    def test_16_bits_of_grey_are_rounded_to_8(self):
        deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
        deep[0, 0] = 129  # half a step of 257 and a little more
        _, image = ImageDecoder()(0, [Record("deep.png", encode(PIL.Image.fromarray(deep), "png"))])
        expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
        expected[0, 0] = 1
        np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))

    def test_transparent_images_are_put_on_white(self):
        pixels = np.zeros((2, 2, 4), np.uint8)
        pixels[0, 0] = 10, 20, 30, 255
        pixels[0, 1] = 0, 0, 0, 128
        _, image = ImageDecoder()(0, [Record("a.png", encode(PIL.Image.fromarray(pixels), "png"))])
        assert image[0, 0].tolist() == [10, 20, 30]
        assert abs(int(image[0, 1, 0]) - 127) <= 1
        assert (image[1] == 255).all()

    @pytest.mark.parametrize("kind", ["tiff", "bmp", "gif", "ppm", "ico", "eps"])
    def test_other_decoders_are_not_used_whatever_a_file_is_called(self, kind, monkeypatch):
        monkeypatch.setattr("subprocess.Popen", None)  # Ghostscript
        decoder = ImageDecoder()
        assert decoder(0, [Record("cat.jpg", encode(position_image(16, 16), kind))]) is None
        assert decoder.unreadable[0] == "cat.jpg: no JPEG, PNG or WebP image, or damaged"

    @pytest.mark.parametrize(
        ("size", "resize", "reason"),
        [
            ((10_000, 1), 256, "expected a side at most 50 times the other"),
            ((1, 10_000), 0, "expected a side at most 50 times the other"),
            ((13_000, 13_000), 0, "expected at most 89,478,485 of them"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_bombs_are_refused_by_their_header(self, size, resize, reason, monkeypatch):
        bomb = encode(PIL.Image.new("1", size), "png")
        monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", None)  # which takes the memory
        decoder = ImageDecoder(resize)
        assert decoder(0, [Record("bomb.png", bomb)]) is None
        assert reason in decoder.unreadable[0]

    def test_names_cannot_steer_a_terminal(self, caplog):
        decoder = ImageDecoder()
        with caplog.at_level(logging.WARNING, logger="vpvae_jax"):
            decoder(0, [Record("a\x1b[31m\nerror: forged.png", b"bad")])
        assert "\x1b" not in caplog.text
        assert r"a\x1b[31m\nerror: forged.png" in decoder.unreadable[0]

    def test_nothing_readable_ends_training_with_an_error(self):
        source = CountingSource([Record(f"{i}.png", b"bad") for i in range(7)])
        iterator = train_batches(source, batch_size=2, crop=8)
        outcome = outcome_within(30, lambda: next(iterator))
        assert isinstance(outcome, DataError)
        assert "none of the 7 images can be read" in str(outcome)

    def test_nothing_readable_among_records_of_one_name(self):
        source = CountingSource([Record("untitled", b"bad") for _ in range(7)])
        iterator = train_batches(source, batch_size=2, crop=8)
        assert isinstance(outcome_within(30, lambda: next(iterator)), DataError)

    def test_broken_exif(self):
        exif = PIL.Image.Exif()
        exif[0x0112], exif[278] = 6, 1  # turned, rows per strip
        encoded = encode(position_image(8, 8), "jpeg", exif=exif)
        long_integer, text = b"\x01\x16\x00\x04\x00\x00\x00\x01", b"\x01\x16\x00\x02\x00\x00\x00\x04"
        assert encoded.count(long_integer) == 1
        decoder = ImageDecoder()
        decoded = decoder(0, [Record("a.jpg", encoded.replace(long_integer, text))])
        assert decoded is not None or decoder.unreadable[0].startswith("a.jpg: ")


def test_processes_share_what_is_evaluated():
    records = plain_records(5)
    records[1] = Record("bad.png", b"bad")
    decoders = [ImageDecoder() for _ in range(3)]
    shares = [
        [name for name, _ in eval_images(records, decoder, crop=8, process=Process(index, 3))]
        for index, decoder in enumerate(decoders)
    ]
    assert [name for share in shares for name in share] == [
        name for name, _ in eval_images(records, ImageDecoder(), crop=8)
    ]
    assert [len(share) for share in shares] == [1, 1, 2]
    assert [list(decoder.unreadable) for decoder in decoders] == [[], [1], []]
    assert Process(2, 8).share(3) == range(0, 1)
    assert [len(Process(index, 8).share(3)) for index in range(8)] == [0, 0, 1, 0, 0, 1, 0, 1]


class TestSmallImages:
    small = Record("small.png", encode(position_image(10, 12)))

    def test_are_skipped_in_training(self):
        batches = take(train_batches([*plain_records(3, size=16), self.small], batch_size=3, crop=16, flip=False), 4)
        np.testing.assert_array_equal(np.sort(batches[..., 0, 0, 0], axis=1), np.tile(np.arange(3), (4, 1)))

    def test_are_counted_in_an_evaluation(self):
        decoder = ImageDecoder(min_side=16)
        assert list(eval_images([self.small], decoder, crop=16)) == []
        assert decoder.unreadable == {0: "small.png: 12 x 10 pixels: too small for 16 x 16"}

    def test_the_remedy_works(self):
        records = [Record("small.png", encode(position_image(10, 12)))]
        assert next(train_batches(records, batch_size=2, crop=16, resize=16)).shape == (2, 16, 16, 3)


class TestImageDecoder:
    @pytest.mark.parametrize(
        ("size", "expected"), [((20, 40), (16, 32)), ((40, 20), (32, 16)), ((33, 20), (26, 16)), ((5, 7), (16, 22))]
    )
    def test_resize_gives_the_short_side_and_keeps_the_ratio(self, size, expected):
        _, image = ImageDecoder(resize=16)(0, [Record("a.png", encode(position_image(*size)))])
        assert image.shape == (*expected, 3)

    def test_resize_keeps_the_colour(self):
        flat = np.full((40, 30, 3), (10, 200, 90), np.uint8)
        _, image = ImageDecoder(resize=16)(0, [Record("a.png", encode(flat))])
        np.testing.assert_array_equal(image, np.broadcast_to(flat[0, 0], image.shape))

    def test_no_resize_keeps_every_pixel(self):
        pixels = position_image(9, 13)
        name, image = ImageDecoder()(0, [Record("a.png", encode(pixels))])
        assert name == "a.png"
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, pixels)

    @pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr"])
    def test_every_mode_becomes_rgb(self, mode):
        encoding = "jpeg" if mode in ("CMYK", "YCbCr") else "png"
        source = PIL.Image.fromarray(np.full((8, 12, 3), 255, np.uint8)).convert(mode)
        _, image = ImageDecoder()(0, [Record("a", encode(source, encoding))])
        assert image.shape == (8, 12, 3)
        assert (image >= 254).all()  # white stays white

    def test_grey_levels_fill_three_channels(self):
        grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
        _, image = ImageDecoder()(0, [Record("a.png", encode(grey))])
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))

    @pytest.mark.parametrize(("orientation", "quarter_turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
    def test_exif_orientation_is_applied(self, orientation, quarter_turns):
        pixels = position_image(8, 12)
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        _, image = ImageDecoder()(0, [Record("a.png", encode(pixels, exif=exif))])
        np.testing.assert_array_equal(image, np.rot90(pixels, quarter_turns))

    def test_cache_reads_a_record_once(self):
        source = CountingSource(noise_records(3))
        decoder = ImageDecoder(cache_bytes=2**20)
        for _ in range(4):
            for index in range(3):
                decoder(index, source)
        assert source.reads == [1, 1, 1]

    def test_cache_keeps_to_its_budget(self):
        source = CountingSource(noise_records(3))
        decoder = ImageDecoder(cache_bytes=24 * 20 * 3 + 1)  # one image and a byte
        for _ in range(4):
            for index in range(3):
                decoder(index, source)
        assert source.reads == [1, 4, 4]

    def test_no_cache_by_default(self):
        source = CountingSource(noise_records(1))
        decoder = ImageDecoder()
        for _ in range(3):
            decoder(0, source)
        assert source.reads == [3]


def test_central_crops_on_request():
    image = position_image(20, 31)
    batches = train_batches([Record("a.png", encode(image))], batch_size=3, crop=16, random_crop=False, flip=False)
    for crop in next(batches):
        np.testing.assert_array_equal(crop, image[2:18, 7:23])


class TestEvalImages:
    def test_central_crop(self):
        image = position_image(20, 31)
        ((name, crop),) = eval_images([Record("a.png", encode(image))], ImageDecoder(), crop=16)
        assert name == "a.png"
        np.testing.assert_array_equal(crop, image[2:18, 7:23])

    def test_order_of_the_source(self):
        images = list(eval_images(plain_records(5), ImageDecoder(), crop=8))
        assert [name for name, _ in images] == [f"{i}.png" for i in range(5)]
        assert [int(image[0, 0, 0]) for _, image in images] == list(range(5))

    def test_whole_images_lose_only_what_exceeds_a_multiple(self):
        records = [Record(f"{h}x{w}", encode(position_image(h, w))) for h, w in ((20, 31), (24, 16))]
        images = dict(eval_images(records, ImageDecoder(), crop=0, multiple=8))
        np.testing.assert_array_equal(images["20x31"], position_image(20, 31)[2:18, 3:27])
        np.testing.assert_array_equal(images["24x16"], position_image(24, 16))


class TestCheckSizes:
    @pytest.fixture
    def source(self, tmp_path):
        for name, size in (("a.png", (40, 32)), ("b.png", (12, 40)), ("c.png", (64, 64))):
            (tmp_path / name).write_bytes(encode(position_image(size[1], size[0])))
        (tmp_path / "bad.png").write_bytes(b"bad")
        return FolderSource(tmp_path, sorted(path.name for path in tmp_path.iterdir()))

    def test_more_than_a_tenth_too_small_is_an_error(self, source):
        assert check_sizes(source, resize=0, min_side=12) == 1  # bad.png, which is counted and no error
        with pytest.raises(
            DataError, match=r"1 of 3 images cannot be used \(b\.png has 12 x 40 pixels: too small for 16"
        ):
            check_sizes(source, resize=0, min_side=16)

    def test_fewer_are_counted(self, source):
        names = [*["a.png"] * 10, "b.png"]
        assert check_sizes(FolderSource(source._root, names), resize=0, min_side=16) == 1

    def test_resized_images_are_large_enough(self, source):
        assert check_sizes(source, resize=16, min_side=16) == 1

    def test_a_larger_source_is_sampled(self, source):
        assert check_sizes(source, resize=0, min_side=32, max_images=2) == 1  # every second: bad.png, not b.png
