"""compressed-tensors beside aibit: `check_compressed_tensors.py AIBIT MODEL WORK`.

Packs the model of the Llama family beside MODEL, exports it, and unpacks the export with compressed-tensors' own
decompressor: each weight must have exactly the values that the package gives (`--to hf --dtype f32`). Then transformers
loads the export, and its logits must be those of the same floating-point folder. Prints one JSON object per check.
"""

import json
import logging
import pathlib
import shutil
import subprocess
import sys
import warnings

import compressed_tensors
import safetensors.torch
import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig

KINDS = [("int8", []), ("int8", ["--activations", "int8"]), ("int8-g32", []), ("int4-g32", [])]
IDS = [list(range(7, 47)), [5, 400, 11, 92, 6, 6, 210]]


def unpacked(folder):
    """The weights of every layer, by the package's decompressor."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    parsed = QuantizationConfig.model_validate(config)
    scheme = parsed.config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(parsed.format)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    modules = sorted(name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale"))
    weights = {}
    for module in modules:
        state = {name.removeprefix(module + "."): t for name, t in tensors.items() if name.startswith(module + ".")}
        # Its values have the type of the scales, and F16 does not hold the product of one with a code.
        state["weight_scale"] = state["weight_scale"].float()
        weights[module + ".weight"] = compressor.decompress(state, scheme)["weight"].float()
    return weights


def logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits.float() for ids in IDS]


def main():
    aibit, source, work = sys.argv[1:]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    engine = f"compressed-tensors {compressed_tensors.__version__}, transformers {transformers.__version__}"
    golden = pathlib.Path(source).parent / "golden"
    folder = pathlib.Path(work) / "tiny-llama"
    shutil.copytree(golden / "tiny-llama/llama", folder)
    shutil.copytree(golden / "tiny-gpt2/tokenizer", folder, dirs_exist_ok=True)
    for kind, options in KINDS:
        name = "-".join([kind, *options[1:]])
        archive, export, floats = (f"{work}/ct-{name}{suffix}" for suffix in (".aibit", "", "-hf"))
        for command in [
            ["pack", folder, "-o", archive, "-q", kind],
            ["export", archive, "--to", "compressed-tensors", "--dtype", "f32", "-o", export, "--check", *options],
            ["export", archive, "--to", "hf", "--dtype", "f32", "-o", floats],
        ]:
            subprocess.run([aibit, *command], check=True, capture_output=True)
        theirs = unpacked(pathlib.Path(export))
        ours = safetensors.torch.load_file(f"{floats}/model.safetensors")
        # Of rows with one scale, the quotient by 127 is rounded there before it multiplies, here after.
        tolerance = 2.0**-23 if kind == "int8" else 0.0
        apart = max(float(((ours[name] - weight).abs() / weight.abs().clamp_min(1e-30)).max()) for name, weight in theirs.items())
        pairs = zip(logits(export), logits(floats))
        moved = max(float((a - b).abs().max()) for a, b in pairs)
        # Rounded activations move the logits, which go up to 14 in this model.
        limit = 1.0 if options else 1e-4
        what = f"`--to compressed-tensors{' ' + ' '.join(options) if options else ''}` of {kind}"
        result = f"{len(theirs)} layers decompressed, values at most {apart:.1e} apart, relatively; logits {moved:.1e}"
        ok = len(theirs) == 14 and apart <= tolerance and moved <= limit
        print(json.dumps({"engine": engine, "what": what, "result": result, "ok": ok}))


main()
