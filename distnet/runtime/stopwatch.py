"""The time of a rank, divided into laps; each belongs to a phase."""

import time
from array import array

# Of a step, and between steps. waiting: for other ranks.
PHASES = ("data", "forward", "backward", "exchange", "waiting", "update", "evaluation", "checkpoint", "callbacks")
CODES = {phase: code for code, phase in enumerate(PHASES)}


def no_lap(phase: str) -> None:
    """Does nothing; in place of `Stopwatch.lap` without a profile."""


class Stopwatch:
    """The laps of one rank.

    keep: how many of the first laps to keep for a timeline.
    seconds: phase -> the sum of all its laps. ends, codes: of each lap that is kept, its end in seconds after `start`,
    and the index of its phase in PHASES. A lap begins when the one before ends.
    """

    def __init__(self, keep: int = 0) -> None:
        self.keep = keep
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.ends, self.codes = array("d"), bytearray()
        self.start()

    def start(self) -> None:
        """Start the first lap now."""
        self._origin = self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """End a lap, of this phase; the next one begins."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now
        if len(self.codes) < self.keep:
            self.ends.append(now - self._origin)
            self.codes.append(CODES[phase])
