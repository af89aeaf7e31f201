#!/usr/bin/env python
"""`fcos-rpn convert-dataset`, from a checkout."""

try:
    from fcos_rpn.commands import run
except ModuleNotFoundError as error:  # says what is missing and how to get it
    raise SystemExit(f"error: {error}") from None

if __name__ == "__main__":
    run("convert-dataset")
