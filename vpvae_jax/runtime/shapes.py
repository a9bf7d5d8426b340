"""Few shapes for arrays of many sizes: a program is compiled for each shape that it sees."""


def next_size(size: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: two an octave, so at most a third of it is padding.

    Four an octave pad less and compile more: with them 100 images of 36 sizes from 256 to 384 pixels took 1.62 times as
    long as 100 of one size (configs/photos.py, 2 cores of an AMD EPYC); results/benchmarks/image_sizes.jsonl has two.
    """
    octave = 2 ** (size - 1).bit_length()
    return octave * 3 // 4 if size <= octave * 3 // 4 else octave
