"""The FIFO of recent image negatives, held as image indices.

Image features are frozen, so an entry is an index rather than a vector: 65,536 entries take 256 KB, not 403 MB, and
equal entries have equal scores, so that the loss needs each image once with its number of entries as a weight.
"""

from __future__ import annotations

import torch


class ImageQueue:
    """Ring buffer of image indices.

    Args:
        capacity: entries held; older ones are overwritten.
        n_images: indices lie in [0, n_images).
        device: where the buffer and the counts live.
    """

    def __init__(self, capacity: int, n_images: int, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self.n_images = n_images
        self._ring = torch.zeros(capacity, dtype=torch.int32, device=device)
        self._written = 0  # since the start; the next entry goes to `_written % capacity`

    def __len__(self) -> int:
        return min(self._written, self.capacity)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that the queue holds."""
        return {"ring": self._ring, "written": torch.tensor(self._written)}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `state_tensors` of a queue of the same capacity gave."""
        self._ring.copy_(tensors["ring"])
        self._written = int(tensors["written"])

    def push(self, images: torch.Tensor) -> None:
        """Append indices (B,), oldest first; of more than `capacity` only the newest stay."""
        self._written += max(0, len(images) - self.capacity)
        images = images[-self.capacity :].to(self._ring.dtype)
        start = self._written % self.capacity
        head = min(len(images), self.capacity - start)
        self._ring[start : start + head] = images[:head]
        self._ring[: len(images) - head] = images[head:]
        self._written += len(images)

    def newest(self, size: int) -> torch.Tensor:
        """The newest min(size, len) entries (int32), in no particular order."""
        size = min(size, len(self))
        end = self._written % self.capacity
        if size <= end:
            return self._ring[end - size : end]
        return torch.cat([self._ring[:end], self._ring[self.capacity - (size - end) :]])

    def counts(self, size: int) -> torch.Tensor:
        """(n_images,) float32: how often each image stands among the newest `size` entries."""
        entries = self.newest(size).long()
        counts = torch.zeros(self.n_images, device=entries.device)
        # Not bincount: it waits for the device to learn the largest index.
        return counts.index_add_(0, entries, torch.ones_like(entries, dtype=counts.dtype))
