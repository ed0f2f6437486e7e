# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Stores as PyTorch Geometric's remote back end: its loaders take features from them. Needs torch-geometric.

A `NodeLoader` is given `(KVFeatureStore(source, labels, width), CsrGraph(topology))` for its data, and a `CsrSampler`
of the same topology for its `node_sampler`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch_geometric.data import FeatureStore, GraphStore, TensorAttr
from torch_geometric.data.graph_store import EdgeAttr, EdgeLayout
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput

from .sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .data import Ints, Topology
    from .fetch import Source


class KVFeatureStore(FeatureStore):
    """Node features `x` of stores, and labels `y` of this process; read-only."""

    def __init__(self, source: Source, labels: Ints, width: int) -> None:
        """`source` has a row of `width` floats for each label."""
        super().__init__()
        self._source, self._labels, self._width = source, torch.from_numpy(labels), width

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        """`x` and `y`."""
        return [TensorAttr(group_name=None, attr_name=name) for name in ("x", "y")]

    def _get_tensor(self, attr: TensorAttr) -> torch.Tensor | None:
        if attr.attr_name not in {"x", "y"}:
            return None
        nodes = np.arange(len(self._labels))
        wanted = nodes[attr.index] if isinstance(attr.index, slice) else nodes if attr.index is None else attr.index
        ids = np.asarray(wanted, np.int64)
        if attr.attr_name == "y":
            return self._labels[torch.from_numpy(ids)]
        fetch = self._source.begin(ids)
        try:
            # A copy: a loader's batches may be kept for as long as one likes.
            return torch.from_numpy(fetch.wait().copy())
        finally:
            fetch.release()

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...] | None:
        nodes = len(self._labels)
        return {"x": (nodes, self._width), "y": (nodes,)}.get(attr.attr_name)

    def _put_tensor(self, tensor: object, attr: TensorAttr) -> bool:
        raise NotImplementedError("features are the stores'; gradients get there by write_back.py")

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        raise NotImplementedError("features are the stores'")


class CsrGraph(GraphStore):
    """A topology, as loaders want to have one beside features."""

    def __init__(self, topology: Topology) -> None:
        """Of this topology."""
        super().__init__()
        self._topology = topology

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        """One kind of edges, in CSR."""
        size = (self._topology.nodes, self._topology.nodes)
        return [EdgeAttr(edge_type=None, layout=EdgeLayout.CSR, size=size)]

    def _get_edge_index(self, edge_attr: EdgeAttr) -> tuple[torch.Tensor, torch.Tensor] | None:
        if edge_attr.layout != EdgeLayout.CSR:
            return None
        return torch.from_numpy(self._topology.indptr), torch.from_numpy(self._topology.indices)

    def _put_edge_index(self, edge_index: object, edge_attr: EdgeAttr) -> bool:
        raise NotImplementedError("the topology does not change")

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> bool:
        raise NotImplementedError("the topology does not change")


class CsrSampler(BaseSampler):
    """The sampler of this example, which needs none of PyTorch Geometric's compiled libraries."""

    def __init__(self, topology: Topology, fans: Sequence[int], seed: int = 0) -> None:
        """As many hops as there are `fans`."""
        self._sampler, self._fans = Sampler(topology), tuple(fans)
        self._generator = np.random.default_rng((seed, 10))

    def sample_from_nodes(self, inputs: NodeSamplerInput, **_: Any) -> SamplerOutput:  # noqa: ANN401  (as its base has it)
        """Edges from drawn neighbours to the nodes that they were drawn for."""
        batch = self._sampler.batch(inputs.node.numpy(), self._fans, self._generator)
        # The outermost layer's edges include those of the others, drawn anew: each layer has its own here.
        sources = np.concatenate([layer.sources for layer in reversed(batch.layers)])
        targets = np.concatenate(
            [np.repeat(np.arange(layer.targets), np.diff(layer.offsets)) for layer in reversed(batch.layers)]
        )
        return SamplerOutput(
            node=torch.from_numpy(batch.nodes),
            row=torch.from_numpy(sources),
            col=torch.from_numpy(targets),
            edge=None,
            metadata=(inputs.input_id, inputs.time),
        )

    def sample_from_edges(self, inputs: object, neg_sampling: object = None) -> SamplerOutput:
        """Not offered: links are foretold by walks here."""
        raise NotImplementedError("this sampler draws around nodes; use NodeLoader")
