"""Neighbour search by numpy and numba on the host's cores."""
