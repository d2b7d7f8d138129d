"""A watchdog that ends all ranks when no step completes."""

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from distnet.runtime.failure import Context, abort, report
from distnet.runtime.launch import launched_rank
from distnet.runtime.logs import error_descriptor, warn

WARN_AFTER = 60.0  # seconds that a rank waits for others in silence
STALL_TIMEOUT = 300.0  # seconds, where no option says otherwise; DISTNET_STALL_TIMEOUT does for programs


def watch_progress(seconds: float) -> Callable[[], None]:
    """End all ranks when Context.position stays for so many seconds; every rank first tells where it waits.

    Loading counts as one step. A thread looks now and then, so that a step costs nothing. faulthandler's own
    timer stands behind it, for a rank that doesn't even let its threads run. Who waits for other ranks is told of
    earlier, after WARN_AFTER seconds.
    Returns what ends the watch, for a program that has other things to do afterwards.
    """
    ended = threading.Event()
    before = Context.position, Context.missing, Context.timeout, Context.folder
    Context.timeout = seconds

    def look() -> None:
        pause = min(seconds / 10, WARN_AFTER / 10, 1.0)
        seen, since = Context.position(), time.monotonic()
        waiting, warned = since, False
        while not ended.is_set():
            faulthandler.dump_traceback_later(
                min(seconds + 10, threading.TIMEOUT_MAX), exit=True, file=error_descriptor()
            )
            ended.wait(pause)
            now, missing = time.monotonic(), Context.missing()
            if Context.position() != seen:
                seen, since = Context.position(), now
                waiting, warned = now, False
            elif not missing:
                waiting = now
            elif now - waiting > WARN_AFTER and not warned:
                warned = True
                warn(f"rank {launched_rank()} has waited {WARN_AFTER:g} s for {missing}, {Context.position()}")
            if now - since > seconds:
                stacks = [
                    "".join(traceback.format_stack(frame))
                    for thread, frame in sys._current_frames().items()
                    if thread != threading.get_ident()
                ]
                report(f"made no step for {seconds:g} s and waits", "\n".join(stacks))
                time.sleep(2 * pause + 0.5)  # the others look within this time and have their say
                abort(1)
        faulthandler.cancel_dump_traceback_later()

    thread = threading.Thread(target=look, name="stall watch", daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()
        Context.position, Context.missing, Context.timeout, Context.folder = before

    return end


def stall_timeout() -> float:
    """Seconds without a step after which all ranks are ended: of the watch that is on, or of programs."""
    if Context.timeout is not None:
        return Context.timeout
    try:
        return max(float(os.environ["DISTNET_STALL_TIMEOUT"]), 1.0)
    except (KeyError, ValueError):
        return STALL_TIMEOUT
