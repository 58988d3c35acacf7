"""llama.cpp and the `gguf` package beside aibit: `check_gguf.py AIBIT MODEL WORK`.

llama.cpp must load each export, split prompts into the same ids, and continue greedily as aibit does: for all tokens where
both compute on F16 weights, and at least for one where not, since llama.cpp then quantizes activations in blocks of 32.
How much that moves logits is told by the same values in F32. The `gguf` package must read every field and give the values that aibit gives. Prints one
JSON object per check.
"""

import importlib.metadata
import json
import subprocess
import sys

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

PROMPTS = ["The history of the city begins with", "In 1998 the band released", "Once upon a time there was"]
STEPS = 24
# Largest difference of a logit at the first step, with room for other machines: logits of this model reach 17.
TOLERANCES = {"f16": 0.05, "int8": 1.0, "int8-g32": 1.0, "int4-g32": 1.0}


def run(aibit, *arguments):
    return subprocess.run([aibit, *arguments], check=True, capture_output=True, text=True).stdout


def logits(llm):
    """Those after the last token that was computed."""
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), shape=(llm.n_vocab(),)).copy()


def continuation(llm, prompt):
    ids = llm.tokenize(prompt.encode(), add_bos=False, special=True)
    llm.reset()
    llm.eval(ids)
    first, out = logits(llm), []
    for _ in range(STEPS):
        out.append(int(logits(llm).argmax()))
        llm.eval([out[-1]])
    return ids, first, out


def same_start(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def check_llama(aibit, work, kind):
    llm = llama_cpp.Llama(f"{work}/{kind}.gguf", n_ctx=256, verbose=False, n_threads=2)
    reference = llama_cpp.Llama(f"{work}/{kind}-f32.gguf", n_ctx=256, verbose=False, n_threads=2)
    same_ids, equal, apart = True, [], 0.0
    for prompt in PROMPTS:
        ids, first, out = continuation(llm, prompt)
        report = json.loads(run(aibit, "run", f"{work}/{kind}.aibit", "-p", prompt, "-n", str(STEPS), "--temp", "0", "--json"))
        same_ids &= report["prompt_ids"] == ids
        equal.append(same_start(report["generated_ids"], out))
        apart = max(apart, float(np.abs(first - continuation(reference, prompt)[1]).max()))
    result = (
        f"prompt ids {'equal' if same_ids else 'DIFFER'}; greedy ids equal for {', '.join(map(str, equal))} of {STEPS} tokens; "
        f"first logits at most {apart:.3f} from those of the same values in F32"
    )
    enough = min(equal) == STEPS if kind == "f16" else min(equal) >= 1
    engine = f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"
    ok = same_ids and enough and apart <= TOLERANCES[kind]
    return {"engine": engine, "what": f"`--to gguf` of {kind}", "result": result, "ok": ok}


def check_package(aibit, work, kind):
    values = load_file(f"{work}/{kind}-f32/model.safetensors")
    reader = gguf.GGUFReader(f"{work}/{kind}.gguf")
    fields = [field.contents() for field in reader.fields.values()]
    names = {
        "token_embd.weight": "transformer.wte.weight",
        "position_embd.weight": "transformer.wpe.weight",
        "blk.0.attn_qkv.weight": "transformer.h.0.attn.c_attn.weight",
        "blk.0.ffn_down.weight": "transformer.h.0.mlp.c_proj.weight",
        "output_norm.bias": "transformer.ln_f.bias",
    }
    worst = 0.0
    for tensor in reader.tensors:
        if tensor.name in names:
            theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            ours = values[names[tensor.name]]
            ours = ours.T if theirs.shape != ours.shape or ".c_" in names[tensor.name] else ours
            worst = max(worst, float(np.abs(theirs - ours).max() / np.abs(ours).max()))
    # A row's scale is rounded to F16 where the archive has one scale for a row.
    ok = worst <= (1 / 2048 if kind == "int8" else 0)
    result = f"{len(fields)} fields and {len(reader.tensors)} tensors read; values at most {worst:.2e} of the largest apart"
    engine = f"gguf {importlib.metadata.version('gguf')}"
    return {"engine": engine, "what": f"`--to gguf` of {kind}", "result": result, "ok": ok}


def main():
    aibit, source, work = sys.argv[1:]
    for kind in TOLERANCES:
        run(aibit, "pack", source, "-o", f"{work}/{kind}.aibit", "-q", kind)
        run(aibit, "export", f"{work}/{kind}.aibit", "--to", "gguf", "-o", f"{work}/{kind}.gguf", "--check")
        # Their values, for comparison.
        run(aibit, "export", f"{work}/{kind}.aibit", "--to", "hf", "--dtype", "f32", "-o", f"{work}/{kind}-f32")
        run(aibit, "pack", f"{work}/{kind}-f32", "-o", f"{work}/{kind}-f32.aibit", "-q", "f32")
        run(aibit, "export", f"{work}/{kind}-f32.aibit", "--to", "gguf", "-o", f"{work}/{kind}-f32.gguf")
    for kind in TOLERANCES:
        print(json.dumps(check_llama(aibit, work, kind)), flush=True)
        print(json.dumps(check_package(aibit, work, kind)), flush=True)


main()
