"""Ctrl-C at a safe place: while a block runs, the first one is a request to stop, and only a second one raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """A handler of Ctrl-C that counts.

    Parameters
    ----------
    react
        Called at the first one, between two instructions of whatever runs: it must not raise.
    """

    def __init__(self, react: Callable[[], None]) -> None:
        self._react = react
        self.count = 0

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Take one Ctrl-C.

        Raises
        ------
        KeyboardInterrupt
            At the second: whoever presses twice does not want to wait.
        """
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
        self._react()


@contextmanager
def interrupts_handled(react: Callable[[], None]) -> Iterator[Interrupts]:
    """Handle Ctrl-C by ``react`` while the block runs; blocks may stand in one another.

    Python raises `KeyboardInterrupt` between any two instructions, where half of a change may be made. Nothing is done
    in a thread that gets no signals, nor where the program around us handles (or ignores) Ctrl-C in its own way.
    """
    interrupts = Interrupts(react)
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler or isinstance(before, Interrupts)
    if not ours or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
