"""MONAI's sliding windows: as people use them, tuned to this machine, and around our own session."""

from __future__ import annotations

import time
from math import ceil
from typing import Any

from .task import Build, Peer, Task, need
from .with_torch import released_network, require_torch_on, without_gradients

SW_BATCH = 4  # of 1, 4, 8 and 16 none is faster beyond the noise on a CPU, and 1 is slower
TRIED_ROI, TRIED_SW_BATCH, TRIED_OVERLAP = (256, 512, 1024), (1, 4), 0.25


def windows(side: int, roi: int, overlap: float) -> int:
    """Count the windows along a side, as `monai.inferers.sliding_window_inference` lays them out.

    Parameters
    ----------
    side, roi : int
        Of the section and of a window, in pixels.
    overlap : float
        Of neighbouring windows, as a share of `roi`.

    Returns
    -------
    int
    """
    step = max(1, int(roi * (1 - overlap)))
    return 1 + max(0, ceil((side - roi) / step))


def monai(roi: int, overlap: float, mode: str = "gaussian") -> Build:
    """MONAI as it is used: logits averaged with Gaussian or constant weights, the sigmoid after that."""

    def build(task: Task) -> Peer:
        need("monai")
        return _peer(task, released_network(task).network, roi, SW_BATCH, overlap, mode)

    return build


def monai_tuned(task: Task) -> Peer:
    """Look for the fastest window and batch with MONAI's default overlap and constant weights, its cheapest.

    One batch of each size is timed; what the whole section would take follows from the number of windows. (One window
    as large as the section is no sliding window: that is torch's own line.)
    """
    need("monai")
    network = released_network(task).network
    import torch

    side = min(task.image_YX.shape)
    expected: dict[tuple[int, int], float] = {}
    for roi in (roi for roi in TRIED_ROI if roi < side):
        count = windows(side, roi, TRIED_OVERLAP) ** 2
        for size in TRIED_SW_BATCH:
            batch_NCYX = torch.zeros(size, 1, roi, roi, device=task.device)
            expected[roi, size] = count / size * _seconds(network, batch_NCYX)
    roi, size = min(expected, key=lambda key: expected[key], default=(side, 1))
    return _peer(task, network, roi, size, TRIED_OVERLAP, "constant")


def _seconds(network: Any, batch_NCYX: Any) -> float:
    import torch

    with torch.inference_mode():
        network(batch_NCYX)
        started = time.perf_counter()
        network(batch_NCYX).sum().item()  # waits for a GPU
    return time.perf_counter() - started


def monai_on_onnxruntime(roi: int, overlap: float) -> Build:
    """MONAI's tiling around our backend, so that nothing but the tiling differs; probabilities are averaged."""

    def build(task: Task) -> Peer:
        need("monai")
        require_torch_on(task.device, task.quick)
        import torch

        backend = task.reference_backend()

        def predict(batch_NCYX):
            return torch.from_numpy(backend.run(batch_NCYX.cpu().numpy())).to(task.device)

        return _peer(task, predict, roi, SW_BATCH, overlap, "gaussian", logits=False)

    return build


def _peer(
    task: Task, predict: Any, roi: int, size: int, overlap: float, mode: str, logits: bool = True
) -> Peer:
    import torch
    from monai.inferers import sliding_window_inference

    def work():
        found_NCYX = sliding_window_inference(task.tensor(), roi, size, predict, overlap=overlap, mode=mode)
        return torch.sigmoid(found_NCYX) if logits else found_NCYX

    counts = [windows(side, roi, overlap) for side in task.image_YX.shape]
    return Peer(
        run=without_gradients(work),
        does=f"{counts[0]} x {counts[1]} windows of {roi}, {size} a batch, averaged ({mode} weights)",
        precision="fp32",
        overhead=counts[0] * counts[1] * roi**2 / task.image_YX.size,
    )
