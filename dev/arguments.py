"""Types of command-line arguments."""

import argparse


def positive(text: str) -> int:
    """1, 2, 3, ..."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)
