"""Makes OpenVINO's int8 model: make_openvino.py SOURCE TARGET_FOLDER

The graph has the form that OpenVINO GenAI's own exporter gives a decoder (state per layer, reordered by `beam_idx`,
then scaled dot product attention): its plugin fuses exactly that form. NNCF compresses the weights to int8 as the
exporter does, asymmetric and per channel, the shared embedding and head included.
"""

import json
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

import weights

source, target = sys.argv[1], Path(sys.argv[2])
config, w = weights.read(source)
layers, heads, width = config["n_layer"], config["n_head"], config["n_embd"]
head_width = width // heads


def constant(value, kind=np.int64):
    return op.constant(np.array(value, kind))


def weight(value):
    # As in an exported checkpoint: f16 in the file, f32 in the arithmetic.
    return op.convert(op.constant(np.ascontiguousarray(value, np.float16)), "f32")


def norm(x, name):
    x = op.mvn(x, constant([-1]), True, config["layer_norm_epsilon"], "inside_sqrt")
    return op.add(op.multiply(x, weight(w[f"{name}.weight"])), weight(w[f"{name}.bias"]))


def linear(x, name):
    product = op.matmul(x, weight(w[f"{name}.weight"].T), False, True, name=f"{name}.weight")
    return op.add(product, weight(w[f"{name}.bias"]))


def state(name, batch):
    """A variable [batch, heads, tokens, head_width], in the order that `beam_idx` asks for."""
    shape = ov.PartialShape([-1, heads, -1, head_width])
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = shape, ov.Type.f32, name
    variable = Variable(info)
    sizes = op.concat([batch, constant([heads]), constant([0]), constant([head_width])], 0)
    empty = op.broadcast(constant(0.0, np.float32), sizes)
    read = op.read_value(empty, variable)
    return variable, op.gather(read, beam_idx, constant(0))


def parameter(kind, name, *shape):
    made = op.parameter(ov.PartialShape(list(shape)), kind, name)
    made.set_friendly_name(name)
    made.output(0).get_tensor().set_names({name})
    return made


input_ids = parameter(np.int64, "input_ids", -1, -1)
attention_mask = parameter(np.int64, "attention_mask", -1, -1)
position_ids = parameter(np.int64, "position_ids", -1, -1)
beam_idx = parameter(np.int32, "beam_idx", -1)

shape = op.shape_of(input_ids)
batch = op.gather(shape, constant([0]), constant(0))
n_new = op.gather(shape, constant(1), constant(0))
n_all = op.gather(op.shape_of(attention_mask), constant(1), constant(0))
keys = op.range(constant(0), n_all, constant(1), "i64")
queries = op.range(op.subtract(n_all, n_new), n_all, constant(1), "i64")
causal = op.less_equal(
    op.unsqueeze(keys, constant([0, 1, 2])), op.unsqueeze(op.unsqueeze(queries, constant([0, 1])), constant([3]))
)
given = op.unsqueeze(op.convert(attention_mask, "boolean"), constant([1, 2]))
visible = op.logical_and(causal, given)
mask = op.select(visible, constant(0.0, np.float32), constant(np.finfo(np.float32).min, np.float32))

embedding = weight(w["wte.weight"])
x = op.add(
    op.gather(embedding, op.convert(input_ids, "i32"), constant(0)),
    op.gather(weight(w["wpe.weight"]), op.convert(position_ids, "i32"), constant(0)),
)
variables, stores = [], []


def heads_of(part):
    return op.transpose(op.reshape(part, constant([0, 0, heads, head_width]), True), constant([0, 2, 1, 3]))


for layer in range(layers):
    name = f"h.{layer}"
    qkv = op.split(linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn"), constant(2), 3)
    query, key, value = (heads_of(qkv.output(part)) for part in range(3))
    cache = []
    for part, new in [("key", key), ("value", value)]:
        variable, past = state(f"past_key_values.{layer}.{part}present.{layer}.{part}", batch)
        together = op.concat([past, new], 2)
        variables.append(variable)
        stores.append(op.assign(together, variable))
        cache.append(together)
    mixed = op.scaled_dot_product_attention(query, cache[0], cache[1], mask)
    mixed = op.reshape(op.transpose(mixed, constant([0, 2, 1, 3])), constant([0, 0, width]), True)
    x = op.add(x, linear(mixed, f"{name}.attn.c_proj"))
    inner = op.gelu(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"), "tanh")
    x = op.add(x, linear(inner, f"{name}.mlp.c_proj"))
logits = op.matmul(norm(x, "ln_f"), embedding, False, True)
logits.output(0).get_tensor().set_names({"logits"})
result = op.result(logits)

model = ov.Model([result], stores, [input_ids, attention_mask, position_ids, beam_idx], variables, "gpt2")
model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
target.mkdir(parents=True, exist_ok=True)
ov.save_model(model, target / "openvino_model.xml")
(target / "config.json").write_text(json.dumps(config))
ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
(target / "generation_config.json").write_text(json.dumps(ends))
