"""transformers with bitsandbytes beside aibit: `check_bnb.py AIBIT MODEL WORK`.

Packs MODEL as bitsandbytes quantizes it, exports it, and loads the export. Its logits and tensors must equal, bit for bit,
those of the model that transformers and bitsandbytes quantize themselves. Prints one JSON object per check.
"""

import json
import logging
import pathlib
import subprocess
import sys
import warnings

import bitsandbytes
import torch
import transformers

PROMPTS = ["The history of the city begins with", "In 1998 the band released", "Once upon a time there was"]
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
KINDS = {
    "bnb-int8": {"load_in_8bit": True},
    "nf4": FOUR_BITS,
    "nf4-dq": FOUR_BITS | {"bnb_4bit_use_double_quant": True},
}


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **options).eval()


def logits(model, tokenizer):
    with torch.no_grad():
        return [model(**tokenizer(prompt, return_tensors="pt")).logits.float() for prompt in PROMPTS]


def main():
    aibit, source, work = sys.argv[1:]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    engine = f"transformers {transformers.__version__}, bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}"
    for kind, settings in KINDS.items():
        archive, folder = f"{work}/{kind}.aibit", f"{work}/{kind}"
        for command in [
            ["pack", source, "-o", archive, "-q", kind],
            ["export", archive, "--to", "bnb", "-o", folder],
        ]:
            subprocess.run([aibit, *command], check=True, capture_output=True)
        ours = load(pathlib.Path(folder))
        theirs = load(source, quantization_config=transformers.BitsAndBytesConfig(**settings))
        pairs = list(zip(logits(ours, tokenizer), logits(theirs, tokenizer)))
        equal = all(torch.equal(a, b) for a, b in pairs)
        apart = max(float((a - b).abs().max()) for a, b in pairs)
        ours, theirs = ours.state_dict(), theirs.state_dict()
        different = [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]
        result = f"{len(theirs)} tensors, {len(different)} differ; logits of {len(PROMPTS)} prompts at most {apart:g} apart"
        what = f"`--to bnb` of {kind} beside the model that bitsandbytes quantizes"
        print(json.dumps({"engine": engine, "what": what, "result": result, "ok": equal and not different}))


main()
