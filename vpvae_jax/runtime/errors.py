"""Errors that a user can fix: `main` shows them as one line and exits with 1. Any other is a bug with a traceback."""


class UserError(Exception):
    """Names the fact, the expectation and the remedy in one line."""


class ConfigError(UserError):
    """A setting that cannot work, or that does not match the work directory."""


class DataError(UserError):
    """Data that are missing or cannot be used."""


class CheckpointError(UserError):
    """A work directory without what the command needs, or with something else."""


class TrainingDivergedError(UserError):
    """The loss is not finite; the last good checkpoint is kept."""
