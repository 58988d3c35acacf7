"""Makes ONNX Runtime's model: make_onnx.py SOURCE TARGET.onnx

A decoder with its KV cache as inputs and outputs and logits for the last position only, then dynamic int8
quantization of every matrix product with one scale per output channel.
"""

import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import weights

source, target = sys.argv[1], Path(sys.argv[2])
config, w = weights.read(source)
layers, heads, width = config["n_layer"], config["n_head"], config["n_embd"]
head_width = width // heads

nodes, constants = [], []


def constant(name, value):
    constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def op(kind, *inputs, outputs=None, **attributes):
    outputs = outputs or [f"{kind.lower()}_{len(nodes)}"]
    nodes.append(helper.make_node(kind, list(inputs), outputs, name=f"n{len(nodes)}", **attributes))
    return outputs[0] if len(outputs) == 1 else outputs


def integers(name, *values):
    return constant(name, np.array(values, np.int64))


def norm(x, name):
    scale, bias = (constant(f"{name}.{part}", w[f"{name}.{part}"]) for part in ("weight", "bias"))
    return op("LayerNormalization", x, scale, bias, axis=-1, epsilon=config["layer_norm_epsilon"])


def linear(x, name):
    product = op("MatMul", x, constant(f"{name}.weight", w[f"{name}.weight"]))
    return op("Add", product, constant(f"{name}.bias", w[f"{name}.bias"]))


one, zero_scalar, one_scalar = integers("one", 1), constant("zero", np.int64(0)), constant("one_", np.int64(1))
split_heads = integers("split_heads", 0, 0, heads, head_width)
join_heads = integers("join_heads", 0, 0, width)
last, end, axis = integers("last", -1), integers("end", np.iinfo(np.int64).max), integers("axis", 1)
column, row = integers("column", 1), integers("row", 0)

n_past = op("Gather", op("Shape", "past0"), constant("two", np.int64(2)))
n_new = op("Gather", op("Shape", "ids"), one_scalar)
n_all = op("Add", n_past, n_new)
queries = op("Range", n_past, n_all, one_scalar)
keys = op("Range", zero_scalar, n_all, one_scalar)
visible = op("LessOrEqual", op("Unsqueeze", keys, row), op("Unsqueeze", queries, column))
mask = op("Where", visible, constant("open", np.float32(0)), constant("shut", np.float32(-1e9)))
x = op("Add", op("Gather", constant("wte", w["wte.weight"]), "ids"), op("Gather", constant("wpe", w["wpe.weight"]), queries))
scale = constant("scale", np.float32(1 / math.sqrt(head_width)))
sizes = integers("sizes", width, width, width)
for layer in range(layers):
    name = f"h.{layer}"
    qkv = linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn")
    q, k, v = op("Split", qkv, sizes, outputs=[f"q{layer}", f"k{layer}", f"v{layer}"], axis=-1)
    q, k, v = (op("Transpose", op("Reshape", part, split_heads), perm=[0, 2, 1, 3]) for part in (q, k, v))
    k = op("Concat", f"past{2 * layer}", k, outputs=[f"present{2 * layer}"], axis=2)
    v = op("Concat", f"past{2 * layer + 1}", v, outputs=[f"present{2 * layer + 1}"], axis=2)
    scores = op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2]))
    shares = op("Softmax", op("Add", op("Mul", scores, scale), mask), axis=-1)
    mixed = op("Reshape", op("Transpose", op("MatMul", shares, v), perm=[0, 2, 1, 3]), join_heads)
    x = op("Add", x, linear(mixed, f"{name}.attn.c_proj"))
    inner = op("Gelu", linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"), approximate="tanh")
    x = op("Add", x, linear(inner, f"{name}.mlp.c_proj"))
x = norm(op("Slice", x, last, end, axis), "ln_f")
# The head is a matrix of its own: the quantizer takes weights as [in, out], the embedding is [out, in].
op("MatMul", x, constant("head", w["wte.weight"].T), outputs=["logits"])


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


inputs, outputs = [value("ids", TensorProto.INT64, 1, "new")], [value("logits", TensorProto.FLOAT, 1, 1, "vocabulary")]
for index in range(2 * layers):
    inputs.append(value(f"past{index}", TensorProto.FLOAT, 1, heads, "past", head_width))
    outputs.append(value(f"present{index}", TensorProto.FLOAT, 1, heads, "all", head_width))
graph = helper.make_graph(nodes, "gpt2", inputs, outputs, constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
plain = target.with_suffix(".f32.onnx")
onnx.save(model, plain)
quantize_dynamic(plain, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
plain.unlink()
