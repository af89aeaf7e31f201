"""What users run: `fcos-rpn COMMAND`, one module for each command; tools/*.py call the same from a checkout."""

import sys
from collections.abc import Sequence
from importlib import import_module

from tabulate import tabulate

from ..errors import user_errors_as_messages

COMMANDS = {
    "quickstart": ("quickstart", "train both roles on generated digits, evaluate and draw them"),
    "check": ("check_dataset", "find everything that is wrong or odd in a data set before training"),
    "convert-dataset": (
        "convert_dataset",
        "convert a data set from YOLO, Pascal VOC or CVAT to COCO's format, or to YOLO",
    ),
    "train": ("train_net", "train, resume or evaluate, from a YAML or a LazyConfig"),
    "demo": ("demo", "draw what a trained model finds in pictures"),
    "analyze": ("analyze_assignment", "count the boxes that no location learns and suggest a better config"),
    "analyze-detections": ("analyze_detections", "measure what stands behind a model's boxes"),
    "visualize-assignment": ("visualize_assignment", "draw which location learns which box"),
    "convert": ("convert_checkpoint", "convert a checkpoint of another implementation or of the other role"),
    "export": ("export_model", "write a model as ONNX or torch.export"),
}
"""Name on the command line -> module of this package, and what the command does."""


def main() -> None:
    """The console script `fcos-rpn`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        rows = [[command, about] for command, (_, about) in COMMANDS.items()]
        print(
            f"usage: fcos-rpn COMMAND ...\n\n{tabulate(rows, tablefmt='plain')}\n\nfcos-rpn COMMAND --help says more."
        )
    elif name not in COMMANDS:
        sys.exit(f"error: there is no command {name!r}; choose one of {', '.join(COMMANDS)}")
    else:
        sys.argv[0] = f"fcos-rpn {name}"  # the program's name in argparse's messages
        run(name, arguments)


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command of `COMMANDS`; None takes the process's own arguments. Ends the process on a user's mistake."""
    module = import_module(f".{COMMANDS[name][0]}", __name__)
    with user_errors_as_messages(when_stopped=getattr(module, "WHEN_STOPPED", "stopped")):
        sys.exit(module.main(arguments))
