"""The AST against its origin: transformers' own extractor and classifier, and the files of published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from make_audio import waveform as made
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ASTFeatureExtractor

from daemon.core.errors import BadFile, MusicReclassError
from trainer.backbones import build
from trainer.backbones.ast import Ast

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def _ast(**sizes: int) -> Ast:
    return Ast.random(**TINY, max_length=128, **sizes)


def _sound(seconds: float = 1.28) -> Tensor:
    """Two made waveforms, as long as the tiny network's window unless `seconds` says otherwise."""
    return torch.from_numpy(np.stack([made(seconds, seed, 16000)[0] for seed in (0, 1)]))


def _positions(ast: Ast) -> Tensor:
    found = ast.model.audio_spectrogram_transformer.embeddings.position_embeddings
    assert isinstance(found, Tensor)
    return found.detach()


def _scattered(ast: Ast) -> Ast:
    """With position embeddings as a trained network has them: a random start's are all zero."""
    with torch.no_grad():
        for weight in ast.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    return ast.eval()


@pytest.mark.parametrize("seconds", [0.6, 1.28, 2.0])
def test_ast_hears_what_transformers_own_extractor_and_classifier_hear(seconds: float) -> None:
    torch.manual_seed(0)
    ast = _scattered(_ast(num_labels=7))
    extractor = ASTFeatureExtractor(max_length=128)
    waveform = _sound(seconds)
    features = extractor([sound.numpy() for sound in waveform], sampling_rate=16000, return_tensors="pt")[
        "input_values"
    ]
    with torch.inference_mode():
        assert (ast.front(waveform).transpose(1, 2) - features).abs().max() < 2e-4
        expected = ast.model(features).logits
        assert (ast.source_logits(ast(waveform)) - expected).abs().max() < 1e-3
    assert expected.std() > 0.05


def test_ast_is_the_same_after_it_is_written_and_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ast = _scattered(_ast())
    ast.scale = ast.scale._replace(mean=-6.8, std=5.6)
    ast.save(tmp_path)
    # transformers writes the names that the published checkpoints have, which differ from its modules'.
    assert "audio_spectrogram_transformer.encoder.layer.0.attention.attention.key.weight" in load_file(
        tmp_path / "model.safetensors"
    )
    again = build("ast", tmp_path)
    waveform = _sound()
    assert not again.training
    assert torch.equal(again(waveform), ast(waveform))


def test_published_checkpoints_files_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ast = _scattered(_ast(num_labels=3))
    ast.save(tmp_path)
    # As transformers 4.25 wrote them: fewer keys, other dtype key, names of the classes.
    told = {"architectures": ["ASTForAudioClassification"], "model_type": "audio-spectrogram-transformer"}
    told |= TINY | {"max_length": 128, "torch_dtype": "float32", "transformers_version": "4.25.0.dev0"}
    told |= {"id2label": {"0": "Speech", "1": "Music", "2": "Jazz"}, "label2id": {"Speech": 0, "Music": 1, "Jazz": 2}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    front = {"do_normalize": True, "feature_extractor_type": "ASTFeatureExtractor", "max_length": 128}
    front |= {"mean": -4.2677393, "std": 4.5689974, "num_mel_bins": 128, "sampling_rate": 16000, "feature_size": 1}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(front))
    again = Ast.from_pretrained(tmp_path)
    assert again.source_labels == ("Speech", "Music", "Jazz")
    assert torch.equal(again(_sound()), ast(_sound()))


def test_half_precision_weights_are_trained_in_full(tmp_path: Path) -> None:
    _ast().half().save(tmp_path)
    assert {weight.dtype for weight in Ast.from_pretrained(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(("frequency", "time"), [(16, 16), (8, 10), (10, 4)])
def test_other_strides_take_the_position_that_lies_at_a_patchs_centre(
    tmp_path: Path, frequency: int, time: int
) -> None:
    ast = _ast()
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    with torch.no_grad():
        # Two dimensions that say where a patch of stride 10 lies, and two special tokens.
        _positions(ast)[0, 2:, 0], _positions(ast)[0, 2:, 1] = rows.flatten() * 10, columns.flatten() * 10
        _positions(ast)[0, :2] = 5.0
    ast.save(tmp_path)
    other = Ast.from_pretrained(tmp_path, frequency_stride=frequency, time_stride=time)
    down, across = (128 - 16) // frequency + 1, (128 - 16) // time + 1
    grid = _positions(other)[0, 2:].reshape(down, across, 32)
    # Beyond the last trained patch, which starts at 110, there is nothing to interpolate.
    assert torch.allclose(grid[:, 0, 0], torch.clamp(torch.arange(down) * float(frequency), max=110.0))
    assert torch.allclose(grid[0, :, 1], torch.clamp(torch.arange(across) * float(time), max=110.0))
    assert (_positions(other)[0, :2] == 5.0).all()
    assert other(_sound()).shape == (2, 32)


def test_ast_that_is_not_whole_is_a_bad_file(tmp_path: Path) -> None:
    _ast().save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    first = sorted(weights)[0]
    save_file(
        {name: t for name, t in weights.items() if name != first}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(
        BadFile, match=r"1 of its weights are missing, audio_spectrogram_transformer\.embeddings\.cls_token"
    ):
        Ast.from_pretrained(tmp_path)
    cut = weights | {first: weights[first][..., :7].clone()}
    save_file(cut, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadFile, match="holds no usable AST"):
        Ast.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(BadFile, match="holds no usable AST"):
        Ast.from_pretrained(tmp_path)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    ast = _ast()
    ast.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(ast.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BadFile, match=r"holds no usable AST: .*model.safetensors"):
        Ast.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "told", ["{", '{"model_type": "wav2vec2"}', '{"model_type": "audio-spectrogram-transformer", "max_length": "long"}']
)
def test_config_of_something_else_is_a_bad_file(tmp_path: Path, told: str) -> None:
    _ast().save(tmp_path)
    (tmp_path / "config.json").write_text(told)
    with pytest.raises(BadFile, match="holds no usable AST"):
        Ast.from_pretrained(tmp_path)


def test_other_sample_rate_is_refused(tmp_path: Path) -> None:
    _ast().save(tmp_path)
    front = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(front | {"sampling_rate": 44100}))
    with pytest.raises(BadFile, match="44100 Hz, only 16000 is known"):
        Ast.from_pretrained(tmp_path)


def test_name_that_cannot_be_fetched_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MusicReclassError, match=r"MIT/ast: is no local folder.*`music-reclass models pull ast`"):
        build("ast", "MIT/ast")


@pytest.mark.parametrize("where", ["absent", "./absent/folder", "/absent/folder", "a/b/c", Path("absent/folder")])
def test_absent_folder_is_not_looked_for_elsewhere(where: str | Path) -> None:
    with pytest.raises(BadFile, match="there is no such folder"):
        build("ast", where)


def test_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(BadFile, match="is a file; an AST is a folder"):
        build("ast", tmp_path / "best.safetensors")


@pytest.mark.slow
def test_ast_starts_at_its_published_size_and_the_fast_one_with_fewer_tokens() -> None:
    ast, fast = build("ast"), build("ast-fast")
    assert isinstance(ast, Ast) and isinstance(fast, Ast)
    assert (ast.embedding_dim, ast.window_s, len(ast.stages())) == (768, 10.24, 14)
    # The paper's 87 M.
    assert sum(weight.numel() for stage in ast.stages() for weight in stage.parameters()) == pytest.approx(
        87e6, rel=0.01
    )
    assert _positions(ast).shape == (1, 1214, 768)
    assert _positions(fast).shape == (1, 514, 768)
