"""The detector, floor by floor: each module imports only those before it in the package docstring."""
