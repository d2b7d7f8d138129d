"""What ends a command before its work: what a person did that cannot work, told in one line, or a call for help."""


class InputError(ValueError):
    """A bad option, file or launch. Its text is one line that names the thing, its value and the remedy.

    Commands print the line on standard error (rank 0 alone) and end with status 2.
    on_every_rank: whether every rank is known to raise it, so that all can end without an abort.
    """

    on_every_rank = False


class HelpWanted(Exception):  # noqa: N818
    """Somebody typed --help; its text is what to print. Commands print it (rank 0 alone) and end with status 0."""


def input_error_on_every_rank(message: str) -> InputError:
    """An InputError that all ranks raise at the same place."""
    error = InputError(message)
    error.on_every_rank = True
    return error
