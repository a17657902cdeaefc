"""Runs that end half-way."""

from __future__ import annotations

from nbutils.schedules.timeline import Timeline


class Interrupted:
    """A timeline whose step `at` is a KeyboardInterrupt, as of a closed laptop; any other is that of the one given."""

    def __init__(self, timeline: Timeline, at: int) -> None:
        self.timeline, self.at = timeline, at
        self.parameters, self.frame = timeline.parameters, timeline.frame

    def __len__(self) -> int:
        return len(self.timeline)

    def __getitem__(self, step: int) -> dict[str, float]:
        if step == self.at:
            raise KeyboardInterrupt
        return self.timeline[step]
