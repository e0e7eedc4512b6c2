"""How fast a run goes and how much of its time it waits for data. Must never influence it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

# Steps that the moving figures look back on.
WINDOW = 32


class Pace:
    """Call `begin_epoch` before the first step of an epoch, wait inside `waiting()`, and call `stepped` after each
    step of `examples` examples."""

    def __init__(self, examples: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._examples, self._clock = examples, clock
        self._steps: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._epoch = self._epoch_waited = self._waited = 0.0
        self._last = self._begun = clock()

    def begin_epoch(self) -> None:
        """What came between two epochs is no one's time."""
        self._last = self._begun = self._clock()
        self._epoch = self._epoch_waited = 0.0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Inside, the run waits for data."""
        begun = self._clock()
        yield
        self._waited += self._clock() - begun

    def stepped(self) -> None:
        """A step is done."""
        now = self._clock()
        self._steps.append((now - self._last, self._waited))
        self._epoch, self._epoch_waited = now - self._begun, self._epoch_waited + self._waited
        self._last, self._waited = now, 0.0

    @property
    def examples_per_s(self) -> float:
        """Over the last `WINDOW` steps."""
        seconds = sum(total for total, _ in self._steps)
        return len(self._steps) * self._examples / seconds if seconds else 0.0

    @property
    def wait_share(self) -> float:
        """The share of the last `WINDOW` steps' time that was spent waiting."""
        seconds = sum(total for total, _ in self._steps)
        return sum(waited for _, waited in self._steps) / seconds if seconds else 0.0

    @property
    def epoch_s(self) -> float:
        """Seconds of this epoch's steps (since it was begun or gone on with)."""
        return self._epoch

    @property
    def epoch_wait_share(self) -> float:
        """The share of them that was spent waiting."""
        return self._epoch_waited / self._epoch if self._epoch else 0.0
