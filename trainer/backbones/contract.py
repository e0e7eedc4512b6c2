"""What every backbone offers: waveform → embedding, in the pieces that training needs. Must never know a genre."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Backbone(nn.Module):
    """waveform float32 [batch, samples] in [-1, 1] at `sample_rate_hz` → embedding float32 [batch, embedding_dim].

    Attributes:
        sample_rate_hz: the rate it hears at.
        window_s: the length of a window that it was made for; what it is served.
        embedding_dim: numbers per embedding. A linear head over it is all that training adds.
        frames_per_s: columns of `front` in a second, so that masks can be given in seconds.
        fixed_window: whether it hears windows of one length only; the exported graph then takes no other.
        embed_batch: windows that fit into one call when many are embedded.
    """

    sample_rate_hz: int
    window_s: float
    embedding_dim: int
    frames_per_s: float
    embed_batch: int = 8
    fixed_window: bool = False

    def forward(self, waveform: Tensor) -> Tensor:
        """`front`, then `embed`: the graph that is exported."""
        return self.embed(self.front(waveform))

    def front(self, waveform: Tensor) -> Tensor:
        """The normalised log-mel picture [batch, bands, frames]; masks are laid over it in training. No weights."""
        raise NotImplementedError

    def embed(self, picture: Tensor) -> Tensor:
        """The embedding [batch, embedding_dim] of a picture [batch, bands, frames]."""
        raise NotImplementedError

    def stages(self) -> Sequence[nn.Module]:
        """The trainable parts from the input to the embedding, each parameter in exactly one: layer-wise rates fall
        from the last to the first, and partial fine-tuning thaws the last ones."""
        raise NotImplementedError

    def save_memory(self) -> None:
        """Compute activations again in the backward pass instead of keeping them (gradient checkpointing)."""
        raise NotImplementedError
