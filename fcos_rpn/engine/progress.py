"""Training on the screen: a progress bar and nothing else, while Detectron2's log goes to a file."""

import json
import logging
from pathlib import Path

from detectron2.utils.events import EventWriter, get_event_storage
from tqdm import tqdm

from ..errors import UserError, make_folder
from ..evaluation import StrictJSONWriter


def progress_writers(title: str, max_iter: int, output_dir: str) -> list[EventWriter]:
    """A progress bar on standard error, and the figures in `metrics.json` as always."""
    make_folder(Path(output_dir))
    return [ProgressBar(title, max_iter), StrictJSONWriter(str(Path(output_dir) / "metrics.json"))]


class ProgressBar(EventWriter):
    """Iterations, time left and the total loss."""

    def __init__(self, title: str, max_iter: int) -> None:
        self.bar = tqdm(total=max_iter, desc=f"{title}: training", unit="it")

    def write(self) -> None:
        # The storage's own iteration also counts one that failed, and the evaluation after the last.
        losses = get_event_storage().histories().get("total_loss")
        if losses is None:  # nothing trained yet, or nothing left to train
            return
        (_, first), (_, last) = losses.values()[0], losses.values()[-1]
        if self.bar.n == 0:
            self.bar.initial = self.bar.n = first  # where a resumed run begins
        self.bar.set_postfix(loss=f"{losses.median(20):.2f}", refresh=False)
        self.bar.update(last + 1 - self.bar.n)

    def close(self) -> None:
        self.bar.close()


def training_seconds(metrics: Path) -> float:
    """Seconds spent in iterations, from Detectron2's log, to which an interrupted and resumed run appends."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    seconds_per_iteration = {line["iteration"]: line["time"] for line in lines if "time" in line}
    iterations = sorted(seconds_per_iteration)
    return sum(
        seconds_per_iteration[iteration] * (iteration - before)
        for before, iteration in zip([-1, *iterations], iterations, strict=False)
    )


def log_to(file: Path) -> None:
    """Detectron2's and our messages go to a file, so that the screen shows progress and figures.

    Args:
        file: is appended to; its folder is made.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file.parent}: cannot be made or written ({error.strerror})") from error
    to_screen = logging.StreamHandler()
    to_screen.setLevel(logging.ERROR)
    formatter = logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s")
    for name in ("detectron2", "fvcore", "fcos_rpn"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in (to_file, to_screen):
            handler.setFormatter(formatter)
            logger.addHandler(handler)
