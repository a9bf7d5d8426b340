"""Metrics of a run as JSON lines and as TensorBoard events."""

from __future__ import annotations

import errno
import json
import os
import pathlib

from vpvae_jax.config import workdir as layout


class MetricLog:
    """Appends to `metrics.jsonl` and TensorBoard; a resumed run first drops the lines that it will write again.

    Args:
        workdir: the work directory.
        start_step: number of updates already done.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        import tensorboardX  # here, as it imports torch where that is installed, and readers do not need it

        path = workdir / layout.METRICS
        kept = [line for line in read_metrics(workdir) if line["step"] <= start_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, path)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115, closed by close()
        self._events = tensorboardX.SummaryWriter(
            str(workdir / layout.TENSORBOARD), purge_step=start_step + 1 if start_step else None
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the metrics of the updates up to and including the step-th."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if not self._events.file_writer.event_writer._worker.is_alive():
            # Its thread ends on the first failed write, and then its queue would block for ever.
            raise OSError(
                errno.ENOSPC, "no space left on device? TensorBoard events cannot be written", self._events.logdir
            )
        for name, value in values.items():
            kind = "eval" if name.startswith("eval_") else "train"
            self._events.add_scalar(f"{kind}/{name.removeprefix('eval_')}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        try:
            self._file.close()
        finally:
            if self._events.file_writer.event_writer._worker.is_alive():
                self._events.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Lines of `metrics.jsonl`; a last line cut short by a kill is left out."""
    path = workdir / layout.METRICS
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines
