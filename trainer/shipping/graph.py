"""An encoder as an ONNX graph: written, compared with torch, and taken apart between front end and network.

Must never quantise anything or write a bundle. The tensor between the two halves is called `picture` in every graph
that is written here, so that what is made of the network can leave the front end as it is.
"""

from __future__ import annotations

import contextlib
import graphlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daemon.core.bundle import Member
from daemon.core.errors import BundleError
from daemon.core.inference import Encoder, providers_for
from daemon.core.records import Device, Precision
from trainer.backbones.contract import Backbone

Array = NDArray[np.float32]

WAVEFORM, PICTURE, EMBEDDING = "waveform", "picture", "embedding"
OPSET = 18

# What an embedding may be off on another machine, as a share of its size. A tenth of it is allowed between torch and
# ONNX Runtime on one processor: over 41 real tracks they were at most 2e-5 apart (mn04, random AST, random Compact).
TOLERANCE = 1e-3


class _Traced(nn.Module):
    """The encoder with its picture as a second output, so that the exporter keeps the place between the halves."""

    def __init__(self, encoder: Backbone) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        picture = self.encoder.front(waveform)
        return self.encoder.embed(picture), picture


def write_graph(encoder: Backbone, path: Path, samples: int) -> None:
    """The encoder as an ONNX graph: `waveform` [batch, samples] → `embedding` [batch, dim].

    The batch is free, and so is the number of samples unless the encoder has a `fixed_window`. The same weights always
    give the same bytes. The encoder is put into evaluation mode.
    """
    sizes: dict[int, str] = {0: "batch"} if getattr(encoder, "fixed_window", False) else {0: "batch", 1: "samples"}
    with _quiet_exporter():
        program = torch.onnx.export(
            _Traced(encoder).eval(),
            (torch.zeros(2, samples),),
            dynamo=True,
            verbose=False,
            input_names=[WAVEFORM],
            output_names=[EMBEDDING, PICTURE],
            opset_version=OPSET,
            dynamic_shapes={WAVEFORM: sizes},
        )
    assert program is not None, "the dynamo exporter returns a program"
    model = program.model_proto
    strip_origins(model)
    outputs = {output.name: output for output in model.graph.output}
    model.graph.value_info.append(outputs[PICTURE])
    del model.graph.output[:]
    model.graph.output.append(outputs[EMBEDDING])
    onnx.save(model, path)


def strip_origins(model: onnx.ModelProto) -> None:
    """Remove what tools note of their own making: stack traces with the paths of the machine they ran on."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        if "metadata_props" in part.DESCRIPTOR.fields_by_name:
            del part.metadata_props[:]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of its own internals and of an absent torchvision, which nobody here can mend."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def session(
    path: Path,
    encoder: Backbone,
    threads: int | None = 1,
    device: Device = Device.CPU,
    precision: Precision = Precision.FP32,
) -> Encoder:
    """The graph at `path`, an `encoder` in some precision, as the daemon runs it.

    Raises:
        BundleError: it is no graph that ONNX Runtime can run.
    """
    dim = encoder.embedding_dim
    nothing = np.zeros((0, dim), np.float32)
    member = Member(path.stem, path, "", encoder.sample_rate_hz, encoder.window_s, dim, 1.0, nothing, nothing[:, 0])
    return Encoder(member, providers_for(device), threads, precision)


def embedding_of(encoder: Backbone, waveform: Array) -> Array:
    """torch's embedding [n, dim] of `waveform` [n, samples]; a few windows at a time, as many as the encoder allows."""
    with torch.inference_mode():
        parts = [
            encoder(torch.from_numpy(np.ascontiguousarray(waveform[start : start + encoder.embed_batch]))).float()
            for start in range(0, len(waveform), encoder.embed_batch)
        ]
    return torch.cat(parts).numpy()


def size_of(embedding: Array) -> float:
    """The root mean square of an embedding's numbers. float32 rounds relative to what it rounds, so one of size 30
    cannot be reproduced as closely as one of size 1."""
    return float(np.sqrt(np.square(embedding, dtype=np.float64).mean()))


def check_parity(encoder: Backbone, path: Path, waveform: Array) -> float:
    """The largest difference between torch and ONNX Runtime over `waveform` [n, samples], as a share of `size_of`.

    One window is compared alone as well: batches of another size take other ways through both libraries.

    Raises:
        BundleError: it exceeds a tenth of `TOLERANCE` (the rest is left for other machines), or the graph does not run.
    """
    running, apart = session(path, encoder, threads=None), 0.0
    for batch in (*_batches(waveform, encoder.embed_batch), waveform[:1]):
        expected = embedding_of(encoder, batch)
        try:
            found = running.embed(batch)
        except Exception as error:
            # As in the daemon: whatever ONNX Runtime raises on a graph means that the graph is of no use.
            raise BundleError(f"{path.name}: ONNX Runtime fails on it: {error}") from error
        difference = float(np.abs(found - expected).max()) / (size_of(expected) or 1.0)
        # Not `max`, which would pass over a NaN.
        apart = difference if not difference <= apart else apart
    if not apart <= TOLERANCE / 10.0:
        raise BundleError(
            f"{path.name}: ONNX Runtime differs from torch by {apart:.2g} of the embedding's size,"
            f" allowed {TOLERANCE / 10:.2g}"
        )
    return apart


def _batches(waveform: Array, size: int) -> Iterable[Array]:
    return (waveform[start : start + size] for start in range(0, len(waveform), size))


def golden_waveform(window_s: float, sample_rate_hz: int) -> Array:
    """A synthetic chord and a synthetic rhythm, float32 [2, samples] in [-1, 1], in 16-bit steps so that they pack
    well; nobody's recording, and loud in every band, so that no logarithm of nearly nothing is compared."""
    time = np.arange(round(window_s * sample_rate_hz)) / sample_rate_hz
    noise = np.random.default_rng(0).uniform(-1.0, 1.0, time.size)
    chord = sum(np.sin(2.0 * np.pi * pitch * time) for pitch in (220.0, 277.18, 329.63, 880.0)) * 0.12
    beat = np.exp(-8.0 * (time % 0.5)) * np.sin(2.0 * np.pi * 90.0 * time) * 0.5
    both = np.stack([chord + 0.05 * noise, beat + 0.1 * noise * np.exp(-6.0 * (time % 0.25)) + 0.02 * noise])
    return (np.round(both * 1024.0) / 1024.0).astype(np.float32)


def cut(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The graph in two: `waveform` → `picture`, and `picture` → `embedding`. They share no name but `picture`.

    Raises:
        BundleError: the network needs more of the front end than its picture.
    """
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    first: set[str] = set()
    wanted = [PICTURE]
    while wanted:
        node = makers.get(wanted.pop())
        if node is not None and node.output[0] not in first:
            first.add(node.output[0])
            wanted += node.input
    nodes = (
        [node for node in graph.node if node.output[0] in first],
        [n for n in graph.node if n.output[0] not in first],
    )
    picture = next(value for value in graph.value_info if value.name == PICTURE)
    before = _half(model, nodes[0], list(graph.input), [picture])
    after = _half(model, nodes[1], [picture], list(graph.output))
    _count_windows_of_the_picture(after)
    _rename_constants(after, {constant.name for constant in before.graph.initializer})
    _check_closed(after)
    return before, after


def _count_windows_of_the_picture(network: onnx.ModelProto) -> None:
    """The exporter reads the number of windows off the waveform; the picture has as many."""
    for node in network.graph.node:
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Shape" and node.input[0] == WAVEFORM and ends == {"start": 0, "end": 1}:
            node.input[0] = PICTURE


def _check_closed(network: onnx.ModelProto) -> None:
    known = {PICTURE, "", *(constant.name for constant in network.graph.initializer)}
    for node in network.graph.node:
        if strange := set(node.input) - known:
            raise BundleError(f"the network takes {', '.join(sorted(strange))} from the front end besides its picture")
        known |= set(node.output)


def _half(model: onnx.ModelProto, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    constants = [constant for constant in model.graph.initializer if constant.name in used]
    # The protocol buffers copy what they are given.
    graph = onnx.helper.make_graph(nodes, model.graph.name, inputs, outputs, constants)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _rename_constants(model: onnx.ModelProto, taken: set[str]) -> None:
    """Constants that the other half has too get names of their own: the two may come to differ in type."""
    names = {c.name: f"{EMBEDDING}/{c.name}" for c in model.graph.initializer if c.name in taken}
    for constant in model.graph.initializer:
        constant.name = names.get(constant.name, constant.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _in_order(nodes: list[Any]) -> list[Any]:
    """Each node after those that it takes from, as ONNX wants it; tools put new ones at the end."""
    makers = {output: place for place, node in enumerate(nodes) for output in node.output}
    needs = {place: [makers[name] for name in node.input if name in makers] for place, node in enumerate(nodes)}
    return [nodes[place] for place in graphlib.TopologicalSorter(needs).static_order()]


def join(front: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """One graph of the two halves that `cut` made, whatever has become of the second meanwhile."""
    graph = onnx.helper.make_graph(
        _in_order([*front.graph.node, *network.graph.node]),
        front.graph.name,
        list(front.graph.input),
        list(network.graph.output),
        [*front.graph.initializer, *network.graph.initializer],
        value_info=list(front.graph.output),
    )
    domains = {opset.domain: opset for opset in (*front.opset_import, *network.opset_import)}
    version = max(front.ir_version, network.ir_version)
    joined = onnx.helper.make_model(graph, opset_imports=list(domains.values()), ir_version=version)
    strip_origins(joined)
    return joined
