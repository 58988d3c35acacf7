"""Makes CTranslate2's int8 model: make_ctranslate2.py SOURCE TARGET_FOLDER"""

import sys
from pathlib import Path

from ctranslate2.specs import common_spec, transformer_spec

import weights

source, target = sys.argv[1:]
config, w = weights.read(source)
tokens, _ = weights.tokenizer(source)

spec = transformer_spec.TransformerDecoderModelSpec.from_config(
    config["n_layer"], config["n_head"], pre_norm=True, activation=common_spec.Activation.GELUTanh
)


def norm(part, name):
    part.gamma, part.beta = w[f"{name}.weight"], w[f"{name}.bias"]


def linear(part, name):
    part.weight, part.bias = w[f"{name}.weight"].T.copy(), w[f"{name}.bias"]


decoder = spec.decoder
decoder.scale_embeddings = False
decoder.embeddings.weight = w["wte.weight"]
decoder.position_encodings.encodings = w["wpe.weight"]
decoder.projection.weight = w["wte.weight"]
norm(decoder.layer_norm, "ln_f")
for index, layer in enumerate(decoder.layer):
    name = f"h.{index}"
    norm(layer.self_attention.layer_norm, f"{name}.ln_1")
    linear(layer.self_attention.linear[0], f"{name}.attn.c_attn")
    linear(layer.self_attention.linear[1], f"{name}.attn.c_proj")
    norm(layer.ffn.layer_norm, f"{name}.ln_2")
    linear(layer.ffn.linear_0, f"{name}.mlp.c_fc")
    linear(layer.ffn.linear_1, f"{name}.mlp.c_proj")

spec.register_vocabulary(tokens)
spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = tokens[config["eos_token_id"]]
spec.validate()
spec.optimize(quantization="int8")
Path(target).mkdir(parents=True, exist_ok=True)
spec.save(target)
