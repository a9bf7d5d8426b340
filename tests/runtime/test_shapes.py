from vpvae_jax.runtime.shapes import next_size


def test_few_sizes_and_little_padding():
    sizes = {size: next_size(size) for size in range(1, 4097)}
    assert all(size <= padded < 1.5 * size + 1 for size, padded in sizes.items())
    assert all(next_size(padded) == padded for padded in sizes.values())
    assert len(set(sizes.values())) == 24  # two an octave
    assert {2**octave for octave in range(13)} <= set(sizes.values())
