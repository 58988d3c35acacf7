"""Makes llama.cpp's models: make_gguf.py SOURCE TARGET_FOLDER LLAMA

Writes the weights as F16 GGUF with the whole tokenizer; LLAMA, the program of `llama.c`, makes Q8_0 and Q4_0 of it with
llama.cpp's own quantizer.
"""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

import weights

source, target, llama = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
config, w = weights.read(source)
tokens, merges = weights.tokenizer(source)
target.mkdir(parents=True, exist_ok=True)
f16 = target / "f16.gguf"

writer = gguf.GGUFWriter(f16, "gpt2")
writer.add_block_count(config["n_layer"])
writer.add_context_length(config["n_positions"])
writer.add_embedding_length(config["n_embd"])
writer.add_feed_forward_length(4 * config["n_embd"])
writer.add_head_count(config["n_head"])
writer.add_layer_norm_eps(config["layer_norm_epsilon"])
writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
end_of_text = config["eos_token_id"]
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(tokens)
writer.add_token_types(
    [gguf.TokenType.CONTROL if id == end_of_text else gguf.TokenType.NORMAL for id in range(len(tokens))]
)
writer.add_token_merges(merges)
writer.add_bos_token_id(end_of_text)
writer.add_eos_token_id(end_of_text)
writer.add_add_bos_token(False)


def tensor(name, value):
    # As llama.cpp's converter does it: vectors and positions stay f32.
    keep = value.ndim == 1 or name.startswith("position")
    writer.add_tensor(name, np.ascontiguousarray(value, np.float32 if keep else np.float16))


def pair(target_name, name):
    weight = w[f"{name}.weight"]
    tensor(f"{target_name}.weight", weight.T if weight.ndim == 2 else weight)
    tensor(f"{target_name}.bias", w[f"{name}.bias"])


tensor("token_embd.weight", w["wte.weight"])
tensor("position_embd.weight", w["wpe.weight"])
pair("output_norm", "ln_f")
for layer in range(config["n_layer"]):
    for part, name in [
        ("attn_norm", "ln_1"),
        ("attn_qkv", "attn.c_attn"),
        ("attn_output", "attn.c_proj"),
        ("ffn_norm", "ln_2"),
        ("ffn_up", "mlp.c_fc"),
        ("ffn_down", "mlp.c_proj"),
    ]:
        pair(f"blk.{layer}.{part}", f"h.{layer}.{name}")
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

for kind in ["q8_0", "q4_0"]:
    subprocess.run([llama, "quantize", f16, target / f"{kind}.gguf", kind, "0"], check=True)
f16.unlink()
