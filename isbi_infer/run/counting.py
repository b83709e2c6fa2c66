"""How far a run is: its tiles counted, the smallest unit that moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from itertools import islice

from isbi_infer.pixels.resample import resample_source
from isbi_infer.plan.run import RunPlan
from isbi_infer.run.section import laid_out
from isbi_infer.terminal.progress import Progress
from isbi_infer.volumes.protocol import Block


def tiles_of_section(plan: RunPlan) -> float:
    """Return how many tiles are counted for a section that is tissue throughout."""
    layer = plan.layout.grid[1] * plan.layout.grid[2] if plan.layout else 1
    blocks = list(islice(plan.blocks(), layer))
    return TileCount(plan, blocks, lambda done, total: None).total / blocks[0].shape[0]


class TileCount:
    """Counts the tiles of blocks, as planned for sections that are tissue throughout.

    A section with canvas has fewer tiles and a blank one none: what is computed of it counts by its share.

    Attributes
    ----------
    total : int
        Tiles of all blocks.

    Parameters
    ----------
    plan : RunPlan
        Decides tiles and views.
    blocks : sequence of Block
        In the order in which they are computed.
    progress : callable
        Called with the tiles done and their total: 0 at first, and whenever there are more.
    """

    def __init__(self, plan: RunPlan, blocks: Sequence[Block], progress: Progress) -> None:
        height, width = plan.source.shape
        inner = plan.scaling.inner_shape((height, width)) if plan.scaling else (height, width)

        @cache
        def of_window(y: tuple[int, int], x: tuple[int, int]) -> int:
            window = slice(*y), slice(*x)
            seen = resample_source(inner, (height, width), window) if plan.scaling else window
            return sum(len(tiles.touching(part)) for _, tiles, part in laid_out(plan, inner, seen))

        self._of_window, self._progress = of_window, progress
        self.total = sum(map(self.of_block, blocks))
        self._waiting = (of_window(block.y, block.x) for block in blocks for _ in range(*block.z))
        self._ahead: deque[int] = deque()
        self._done = self._said = 0
        progress(0, self.total)

    def of_block(self, block: Block) -> int:
        """Return how many tiles a block has."""
        return self._of_window(block.y, block.x) * block.shape[0]

    def section_done(self) -> None:
        """Count the next section in order, or part of one where blocks hold parts."""
        self._look_ahead(1)
        self._say(self._ahead.popleft())

    def block_done(self, block: Block) -> None:
        """Count a block, where they come in any order."""
        self._say(self.of_block(block))

    def sections_ahead(self, shares: Sequence[float]) -> None:
        """Count what is computed of the sections that come next, in order: the share of each."""
        self._look_ahead(len(shares))
        ahead = sum(int(tiles * share) for tiles, share in zip(self._ahead, shares, strict=False))
        self._tell(self._done + ahead)

    def _look_ahead(self, count: int) -> None:
        while len(self._ahead) < count:
            self._ahead.append(next(self._waiting))

    def _say(self, tiles: int) -> None:
        self._done += tiles
        self._tell(self._done)

    def _tell(self, done: int) -> None:
        if done > self._said:
            self._said = done
            self._progress(done, self.total)
