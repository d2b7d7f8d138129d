"""The exceptions with which a command exits early: invalid input, and --help."""

RESTORE = "restore it, or name another file"  # the remedy for a damaged file


class InputError(ValueError):
    """An invalid option, file or launch. As text: `SUBJECT: PROBLEM; REMEDY`, one line.

    Commands print the line on standard error (rank 0 only) and exit with status 2.
    subject: the option (`--learning-rate`), parameter (`learning_rate`) or file; an option whose value is a file is
    followed by it (`--model a.npz`). problem: a clause, with the value. remedy: an imperative, if there is one.
    on_every_rank: whether all ranks raise it at the same place, so that no rank needs to abort the others.
    """

    def __init__(self, subject: object, problem: str, remedy: str = "", *, on_every_rank: bool = False) -> None:
        self.subject, self.problem, self.remedy = str(subject), problem, remedy
        self.on_every_rank = on_every_rank
        super().__init__(self.subject, problem, remedy)

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}" + f"; {self.remedy}" * bool(self.remedy)


class HelpWanted(Exception):  # noqa: N818
    """--help was given. Commands print the message, which is the help (rank 0 only), and exit with status 0."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters; its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
