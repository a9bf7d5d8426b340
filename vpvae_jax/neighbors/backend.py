"""The protocol of a backend: four functions in one module, which `neighbors.__init__` chooses by platform and size."""

from __future__ import annotations

from typing import Protocol

import jax


class Backend(Protocol):
    """A module with these functions; arguments are checked, float32, and carry no gradient.

    See the function of the same name in `vpvae_jax.neighbors` for what each returns.
    """

    def neighbor_distances(self, samples: jax.Array, queries: jax.Array, ranks: tuple[int, ...], /) -> jax.Array:
        """Measure distances to the neighbours of each rank."""

    def neighbor_distances_along(
        self, samples: jax.Array, queries: jax.Array, steps: jax.Array, ranks: tuple[int, ...], /
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Measure them at each query and again one step away."""

    def nearest(self, samples: jax.Array, queries: jax.Array, /) -> tuple[jax.Array, jax.Array]:
        """Find the nearest sample."""

    def neighbor_at_rank(self, samples: jax.Array, queries: jax.Array, ranks: jax.Array, max_rank: int, /) -> jax.Array:
        """Find the sample of each query's own rank."""
