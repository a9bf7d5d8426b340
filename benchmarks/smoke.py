"""The smoke mode that every benchmark has: the smallest sizes, seconds, to see that it still works."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import jax

# A network and crops that compile in seconds, for any config of images.
NETWORK: Mapping[str, object] = {
    "model.channels": 8,
    "model.channel_multipliers": (1,),
    "model.num_res_blocks": 1,
    "model.attention_levels": (),
    "model.middle_attention": False,
    "model.z_channels": 4,
    "data.crop": 8,
    "data.eval_crop": 64,
    "loss.lpips_weight": 0.0,
    "train.batch_size": 4,
}


class Parser(argparse.ArgumentParser):
    """A command line that shows the module's docstring and has `--smoke`, which also makes XLA compile quickly."""

    def __init__(self, doc: str | None):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--smoke", action="store_true", help="smallest sizes, seconds: the numbers mean nothing")

    def parse_args(self, args: Sequence[str] | None = None, namespace=None) -> argparse.Namespace:
        """Parse a command line; `--smoke` turns most optimizations of XLA off for this process."""
        given = super().parse_args(args, namespace)
        if given.smoke:
            jax.config.update("jax_disable_most_optimizations", True)
        return given
