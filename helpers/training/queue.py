"""The FIFO of recent image negatives, held as image indices.

Image features are frozen, so an entry is an index rather than a vector: 65,536 entries take 256 KB, not 403 MB, and
equal entries have equal scores, so that the loss needs each image once with its number of entries as a weight.
"""

from __future__ import annotations

import torch

from helpers.system import processes
from helpers.system.devices import any_order


class ImageQueue:
    """Ring buffer of image indices, in several processes those of all, the same in each.

    Args:
        capacity: entries held; older ones are overwritten.
        n_images: indices lie in [0, n_images); in several processes so many images are this one's at most.
        device: where the buffer and the counts live.
    """

    def __init__(self, capacity: int, n_images: int, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self.n_images = n_images
        self._ring = torch.zeros(capacity, dtype=torch.int32, device=device)
        # Entries since the start; the next goes to `_written % capacity`. On the device, since a step that is replayed
        # as a graph cannot ask the host.
        self._written = torch.zeros((), dtype=torch.long, device=device)

    def __len__(self) -> int:
        return min(int(self._written), self.capacity)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that the queue holds."""
        return {"ring": self._ring, "written": self._written}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `state_tensors` of a queue of the same capacity gave."""
        self._ring.copy_(tensors["ring"])
        self._written.copy_(tensors["written"])

    def push(self, images: torch.Tensor) -> None:
        """Append indices (B,), oldest first; of more than `capacity` only the newest stay."""
        first = max(0, len(images) - self.capacity)
        place = self._written + torch.arange(first, len(images), device=self._ring.device)
        with any_order():
            self._ring.index_copy_(0, place % self.capacity, images[first:].to(self._ring.dtype))
        self._written += len(images)

    def _newest(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The min(size, capacity) newest places, newest first: their entries (int32), and whether there is one."""
        age = torch.arange(min(size, self.capacity), device=self._ring.device)
        return self._ring[(self._written - 1 - age) % self.capacity], age < self._written

    def newest(self, size: int) -> torch.Tensor:
        """The newest min(size, len) entries (int32), in no particular order."""
        entries, there = self._newest(size)
        return entries[there]

    def counts(self, size: int) -> torch.Tensor:
        """How often each image of this process stands among the newest `size` entries: (n_images,) float32."""
        entries, there = self._newest(size)
        if processes.size() > 1:
            there = there & (processes.owner(entries) == processes.rank())
            entries = processes.place(entries).clamp_(max=self.n_images - 1)  # those of others do not count
        counts = torch.zeros(self.n_images, device=entries.device)
        # Not bincount: it waits for the device to learn the largest index.
        with any_order():
            return counts.index_add_(0, entries, there.to(counts.dtype))
