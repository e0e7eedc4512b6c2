"""The Audio Spectrogram Transformer (Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021).

The network is transformers' `ASTForAudioClassification`, whose published weights it loads; the front end is ours, so
that it can live in the exported graph. Weights are read from safetensors only. Must never know a genre: labels live in
heads.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import safetensors
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.nn import functional
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import ASTLayer
from transformers.utils import logging

from daemon.core.errors import BadFile, MusicReclassError
from trainer.backbones.contract import Backbone
from trainer.frontends import AST_MEL, KaldiLogMel

CONFIG, WEIGHTS, FRONT = "config.json", "model.safetensors", "preprocessor_config.json"
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
POSITIONS = "audio_spectrogram_transformer.embeddings.position_embeddings"

# What transformers raises over a folder that is damaged or of something else.
_UNUSABLE = (OSError, ValueError, TypeError, RuntimeError, StrictDataclassError, safetensors.SafetensorError)

# Tokens in front of the patches: one to classify by and one to distil by.
SPECIAL = 2


class Scale(NamedTuple):
    """Mean and standard deviation of log-mel, which is brought to 0 and 0.5."""

    mean: float
    std: float


# Of AudioSet, as the paper's code gives them.
AUDIOSET = Scale(-4.2677393, 4.5689974)


class Ast(Backbone):
    """waveform float32 [batch, samples] at 16 kHz → embedding float32 [batch, embedding_dim]; 10.24 s and 768 wide as
    published, with 1,214 tokens.

    The embedding is what the network's own linear layer (`classifier.dense`) reads, so a linear head in its place is
    the network fine-tuned as its authors do it.
    """

    sample_rate_hz = AST_MEL.sample_rate_hz
    frames_per_s = AST_MEL.sample_rate_hz / AST_MEL.hop

    def __init__(self, model: ASTForAudioClassification, scale: Scale = AUDIOSET) -> None:
        super().__init__()
        # Much of transformers is not typed, or more loosely than it is used here.
        self.model: Any = model
        self.scale = scale
        self.log_mel = KaldiLogMel(replace(AST_MEL, bands=model.config.num_mel_bins))
        self.frames: int = model.config.max_length
        self.window_s = self.frames / self.frames_per_s
        self.embedding_dim: int = model.config.hidden_size
        # The source's own head is no part of the embedding: it has no gradient to learn from.
        self.model.classifier.dense.requires_grad_(False)

    @classmethod
    def random(cls, **sizes: Any) -> Self:
        """A network with random weights (torch's generator) and `sizes`, fields of `ASTConfig` such as `hidden_size`,
        `num_hidden_layers` or `max_length`; what is not given is as in the paper."""
        return cls(ASTForAudioClassification(ASTConfig(**sizes)))

    @classmethod
    def from_pretrained(
        cls, where: str | Path, *, frequency_stride: int | None = None, time_stride: int | None = None
    ) -> Self:
        """The network in a local folder, or that of a Hugging Face id, in evaluation mode.

        With another stride than it was trained with it hears through fewer or more patches: each gets the position
        embedding that lies where its centre is, by linear interpolation between those it was trained with.

        Raises:
            BadFile: the folder holds no AST in safetensors, or not all of one.
            MusicReclassError: the id is neither in the local cache nor can be fetched.
        """
        folder = _folder(where)
        with _silence():
            try:
                model, scale = _load(folder)
            except _UNUSABLE as error:
                raise BadFile(folder, f"holds no usable AST: {_brief(error)}") from error
            ast = cls(_with_strides(model, frequency_stride, time_stride), scale)
        return ast.eval()

    def save(self, folder: Path) -> None:
        """Write it as `from_pretrained` reads it, and as transformers itself does."""
        with _silence():
            self.model.save_pretrained(folder)
            extractor: Any = ASTFeatureExtractor
            extractor(
                num_mel_bins=self.log_mel.settings.bands,
                max_length=self.frames,
                mean=self.scale.mean,
                std=self.scale.std,
            ).save_pretrained(folder)

    def front(self, waveform: Tensor) -> Tensor:
        """The normalised log-mel [batch, bands, frames], 100 frames a second, as `ASTFeatureExtractor` computes it.

        Always as many frames as the network has places for: sound of a window's length gives two fewer, since only
        whole frames count, and the extractor appends zeros (of log-mel, before it is normalised).
        """
        log_mel = functional.pad(self.log_mel(waveform), (0, self.frames))[..., : self.frames]
        picture: Tensor = (log_mel - self.scale.mean) / (2.0 * self.scale.std)
        return picture

    def embed(self, picture: Tensor) -> Tensor:
        """The embedding [batch, embedding_dim] of a picture [batch, bands, frames]."""
        pooled = self.model.audio_spectrogram_transformer(picture.transpose(1, 2)).pooler_output
        embedding: Tensor = self.model.classifier.layernorm(pooled)
        return embedding.float()

    def source_logits(self, embedding: Tensor) -> Tensor:
        """Logits [..., classes] over `source_labels` of embeddings [..., embedding_dim], by the network's own head;
        they mean something only while the rest is as it was loaded."""
        logits: Tensor = self.source_head(embedding)
        return logits

    @property
    def source_head(self) -> nn.Linear:
        """The layer of `source_logits`."""
        layer = self.model.classifier.dense
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def source_labels(self) -> tuple[str, ...]:
        """The classes that the network's own head knows (527 of AudioSet, as published), in its order."""
        names = self.model.config.id2label
        return tuple(str(names[index]) for index in range(len(names)))

    def stages(self) -> Sequence[nn.Module]:
        """The embeddings, each encoder layer, and the two last normalisations together."""
        body = self.model.audio_spectrogram_transformer
        layers = [module for module in body.modules() if isinstance(module, ASTLayer)]
        return [body.embeddings, *layers, nn.ModuleList([body.layernorm, self.model.classifier.layernorm])]

    def save_memory(self) -> None:
        """Keep only what passes from one layer to the next."""
        self.model.activation_checkpointing_enable({"use_reentrant": False})


def _folder(where: str | Path) -> Path:
    """The local folder that holds what `where` names."""
    local = Path(where).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise BadFile(local, f"is a file; an AST is a folder with {CONFIG} and {WEIGHTS}")
    if isinstance(where, str) and HUB_ID.fullmatch(where):
        return _fetched(where)
    raise BadFile(local, f"there is no such folder; an AST is a folder with {CONFIG} and {WEIGHTS}")


def _fetched(name: str) -> Path:
    try:
        with _silence():
            # Nothing but these is ever fetched, so nothing can be unpickled.
            return Path(
                snapshot_download(name, allow_patterns=[CONFIG, FRONT, "*.safetensors", f"{WEIGHTS}.index.json"])
            )
    except OSError as error:
        raise MusicReclassError(
            f"{name}: is no local folder, and Hugging Face did not give it: {_brief(error)}. Get it with "
            "`music-reclass models pull ast`, or name a local folder that holds it"
        ) from error


def _load(folder: Path) -> tuple[ASTForAudioClassification, Scale]:
    told, _ = ASTConfig.get_config_dict(folder)
    if told.get("model_type") != ASTConfig.model_type:
        raise ValueError(f"its {CONFIG} says {told.get('model_type')!r}, not {ASTConfig.model_type!r}")
    network: Any = ASTForAudioClassification
    model, report = network.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    # transformers would go on with random numbers in the place of what it does not find.
    if absent := sorted(report["missing_keys"]):
        raise ValueError(f"{len(absent)} of its weights are missing, {absent[0]} among them")
    return model, _scale(folder)


def _scale(folder: Path) -> Scale:
    if not (folder / FRONT).exists():
        return AUDIOSET
    told = ASTFeatureExtractor.from_pretrained(folder)
    if told.sampling_rate != AST_MEL.sample_rate_hz:
        raise ValueError(f"its {FRONT} says {told.sampling_rate} Hz, only {AST_MEL.sample_rate_hz} is known")
    return Scale(told.mean, told.std) if told.do_normalize else Scale(0.0, 0.5)


def _with_strides(
    model: ASTForAudioClassification, frequency_stride: int | None, time_stride: int | None
) -> ASTForAudioClassification:
    old = model.config
    new = copy.deepcopy(old)
    new.frequency_stride = frequency_stride or old.frequency_stride
    new.time_stride = time_stride or old.time_stride
    if (new.frequency_stride, new.time_stride) == (old.frequency_stride, old.time_stride):
        return model
    other = ASTForAudioClassification(new)
    state = model.state_dict()
    state[POSITIONS] = _repositioned(state[POSITIONS], old, new)
    other.load_state_dict(state)
    return other


def _repositioned(positions: Tensor, old: Any, new: Any) -> Tensor:
    """Position embeddings [1, tokens, dim] for the patches of `new` from those for the patches of `old`."""
    rows = _between(old.num_mel_bins, old.patch_size, old.frequency_stride, new.frequency_stride)
    columns = _between(old.max_length, old.patch_size, old.time_stride, new.time_stride)
    grid = positions[0, SPECIAL:].reshape(rows.shape[1], columns.shape[1], -1)
    moved = torch.einsum("fg,tu,gud->ftd", rows, columns, grid).flatten(0, 1)
    return torch.cat([positions[0, :SPECIAL], moved])[None]


def _between(length: int, patch: int, old: int, new: int) -> Tensor:
    """How much of each patch at stride `old` is in one at stride `new`, float32 [new patches, old patches]."""
    before, after = (length - patch) // old + 1, (length - patch) // new + 1
    place = torch.clamp(torch.arange(after) * new / old, max=before - 1)
    # A triangle around each old patch, which reaches its neighbours: linear interpolation.
    return torch.clamp(1.0 - (place[:, None] - torch.arange(before)[None, :]).abs(), min=0.0)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """transformers draws progress bars and warns of what is then checked here; both stay as they were afterwards."""
    talk: Any = logging
    verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(verbosity)
        if bars:
            talk.enable_progress_bar()


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("Got: ").rstrip(".") if lines else type(error).__name__
