"""Score a tokenizer: one evaluator for every method and every modality."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import tqdm

from vpvae_jax.codebooks.usage import cvu, cvu_ceiling
from vpvae_jax.data.stream import none_readable
from vpvae_jax.evaluation.records import Reconstruction
from vpvae_jax.modality import Examples, Scorer
from vpvae_jax.runtime import processes
from vpvae_jax.tokenizer import Tokenizer


def evaluate(
    tokenizer: Tokenizer, examples: Examples, scorer: Scorer, *, name: str, num_kept: int = 0
) -> tuple[dict[str, Any], np.ndarray, list[Reconstruction]]:
    """Reconstruct every example and score it as it is stored: pixels of 8 bits, waveforms within [-1, 1].

    Metrics are means over examples; usage is counted over all tokens. Of several processes each scores its share, and
    all return the metrics of all examples: every process must call this.

    Args:
        tokenizer: what is scored.
        examples: see `Modality.examples`.
        scorer: see `Modality.scorer`; its context is entered and left here.
        name: shown on the progress bar.
        num_kept: how many examples to return.

    Returns:
        results: metrics of the quantized reconstruction, and with `_continuous` at their names those of the decoder fed
            the unquantized latents; `cvu` and the `cvu_ceiling` of so few tokens, the rate, and the counts they rest
            on; `examples` lists the scores of each, `skipped` what could not be read.
        counts: `(codebook_size,)` int64, uses of each code.
        kept: the first examples.

    Raises:
        DataError: no readable example, or one too small.
    """
    modality = tokenizer.modality
    counts = np.zeros(tokenizer.codebook_size, np.int64)
    num_examples = 0
    kept: list[Reconstruction] = []
    total = len(processes.this_process().share(examples.total))
    bar = tqdm.tqdm(total=total, unit=modality.unit, desc=f"evaluating {name}", disable=not processes.is_first())
    with scorer:
        while batch := list(itertools.islice(examples.items, examples.batch_size)):
            original = np.stack([example for _, example in batch])
            # The last batch is filled up, so that one program serves all; the padding is cut off again.
            lacking = examples.batch_size - len(batch)
            z = tokenizer.latents(np.pad(original, ((0, lacking), *[(0, 0)] * (original.ndim - 1)), mode="edge"))
            indices = tokenizer.encode_latents(z)
            continuous, quantized = (
                np.asarray(decoded)[: len(batch), : original.shape[1]]
                for decoded in (tokenizer.decode_latents(z), tokenizer.decode(indices))
            )
            scorer.add([example_name for example_name, _ in batch], original, continuous, quantized)
            counts += np.bincount(np.asarray(indices)[: len(batch)].ravel(), minlength=len(counts))
            num_examples += len(batch)
            for rows in zip(original, continuous, quantized, strict=True):
                if len(kept) < num_kept:
                    kept.append(Reconstruction(*rows))
            bar.update(len(batch))
        bar.close()
        nums = processes.gather(num_examples)
        if not sum(nums):
            raise none_readable(examples.total, f"{modality.unit}s")
        means, scores = scorer.results(processes.gather)
    num_before = sum(nums[: processes.this_process().index])
    parts = processes.gather(
        {
            "counts": counts,
            "kept": [list(each) for each in kept[: max(0, num_kept - num_before)]],
            "unreadable": [list(item) for item in sorted(examples.unreadable.items())],
        }
    )
    counts = np.sum([part["counts"] for part in parts], axis=0)
    kept = [Reconstruction(*each) for part in parts for each in part["kept"]]
    unreadable = [record for part in parts for record in part["unreadable"]]
    results = means | {
        "cvu": cvu(counts),
        "cvu_ceiling": cvu_ceiling(tokenizer.codebook_size, int(counts.sum())),
        f"bits_per_{modality.rate_unit}": modality.rate(tokenizer.codebook_size),
        "codebook_size": tokenizer.codebook_size,
        "num_codes_used": int((counts > 0).sum()),
        "num_tokens": int(counts.sum()),
        "num_examples": len(scores),
        "num_skipped": len(unreadable),
        "skipped": [{"record": record, "reason": reason} for record, reason in unreadable],
        "step": tokenizer.step,
        "examples": scores,
    }
    return results, counts, kept
