"""Writes the metrics of a run for TensorBoard, through PyTorch's writer: `tensorboard --logdir RUN`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from tbptt.report.metrics import named_numbers

FOLDER = "tensorboard"


class TensorBoardWriter:
    """Adds an event file to those that earlier starts of the run left in RUN/tensorboard.

    A run that continues after `step` tells TensorBoard to drop what an earlier start wrote after it, so that it shows
    every step once.
    """

    def __init__(self, run_dir: Path, step: int, run_config: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        folder = run_dir / FOLDER
        is_new = not folder.exists()
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)
        if is_new:
            self.text("config", json.dumps(run_config, indent=1), step)

    def write(self, record: dict[str, Any]) -> None:
        for name, value in named_numbers(record).items():
            if value is not None:
                self.writer.add_scalar(name, value, record["step"])
        self.writer.flush()  # a process that is killed leaves what it has written

    def picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image  # with matplotlib, which drew it

        with Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def text(self, name: str, text: str, step: int) -> None:
        # TensorBoard reads Markdown: indented, a text is shown as it is.
        self.writer.add_text(name, textwrap.indent(text, "    ", lambda line: True), step)

    def close(self) -> None:
        self.writer.close()
