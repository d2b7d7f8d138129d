"""Where a rank's time goes: laps one after another, each counted to a phase."""

import time
from array import array

# What a step, and what is between steps, consists of. waiting: for other ranks, where nothing else is done.
PHASES = ("data", "forward", "backward", "exchange", "waiting", "update", "evaluation", "checkpoint", "callbacks")
CODES = {phase: code for code, phase in enumerate(PHASES)}


def no_lap(phase: str) -> None:
    """What stands for `Stopwatch.lap` where nobody wants to know."""


class Stopwatch:
    """Laps of one rank.

    keep: how many of the first laps to keep for a timeline, beside the sums.
    seconds: phase -> the sum of its laps. ends, codes: of each lap kept, when it ended, in seconds after `start`,
    and the place of its phase in PHASES; it began where the one before ended.
    """

    def __init__(self, keep: int = 0) -> None:
        self.keep = keep
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.ends, self.codes = array("d"), bytearray()
        self.start()

    def start(self) -> None:
        """From now on time counts."""
        self._origin = self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """The time since the last lap was for `phase`."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now
        if len(self.codes) < self.keep:
            self.ends.append(now - self._origin)
            self.codes.append(CODES[phase])
