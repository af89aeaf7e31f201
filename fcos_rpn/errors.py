"""The one exception for mistakes that the user can repair; the tools print it without a traceback."""


class UserError(ValueError):
    """Says what is wrong, where (file, image id, annotation id, key), and what to do."""
