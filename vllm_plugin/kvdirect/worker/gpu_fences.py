# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How far a GPU must get with what vLLM has queued on it, before the transfer engine may go on.

On a GPU a forward that returned has only been queued. All that vLLM queues and that touches the cache goes to, or is
joined to, the stream that is current in the thread that calls the connector: both model runners, in all supported
versions, with and without CUDA graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    import kvtransfer


class StepFences:
    """The two points of a step that matter, as streams: the engine waits for what a stream has been given so far."""

    def __init__(self, device: torch.device, stream: int) -> None:
        """Nothing is waited for yet; `stream`: handle of one that nobody else uses."""
        import torch  # noqa: PLC0415  (vLLM has loaded it long before)

        self._cuda = torch.cuda
        self._device = device
        # None of PyTorch's: it has 32 and hands each of them to several.
        self._begun = torch.cuda.ExternalStream(stream, device)

    def step_begins(self) -> None:
        """Take what is queued now for what may still write or read the blocks that this step's pulls will fill.

        That is: earlier steps, and clearing and copying of blocks by this one. Its forward need not be waited for. The
        requests that a pull is for are not in it.
        """
        self._begun.wait_stream(self._cuda.current_stream(self._device))

    @property
    def begun(self) -> int:
        """Handle of a stream that has been given nothing but waits: its work is done when the last fence is reached."""
        return int(self._begun.cuda_stream)

    @property
    def queued(self) -> int:
        """Handle of the stream that has been given everything up to now."""
        return int(self._cuda.current_stream(self._device).cuda_stream)


def fences_on(device: torch.device, engine: kvtransfer.Engine) -> StepFences | None:
    """StepFences for a cache on a GPU; None for one on the host, where what returned is done."""
    return StepFences(device, engine.fence_stream) if device.type == "cuda" else None
