"""transformers 4 and 5 beside each other: `check_transformers.py AIBIT MODEL WORK`.

Both must load each export of MODEL (a GPT-2) and of models of the Llama family that come from GGUF files, split prompts
into aibit's ids, and compute the same logits. Those of a folder in F32 must be the logits of the original folder, and their
greedy continuation aibit's. `TRANSFORMERS_4` names the folder that has version 4, which is laid over this environment. Prints one
JSON object per check.
"""

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np

PROMPTS = ["The history of the city begins with", "In 1998 the band released", "Once upon a time there was"]
STEPS = 16
# Of the largest logit. The versions order the same operations differently in places.
TOLERANCE = 1e-5
# Models of `fixtures/cases/base`, their RoPE settings, and what becomes of them in a GGUF file.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
BORN_FROM_GGUF = {
    "Llama": ("llama", {"rope_type": "default", "rope_theta": 500000.0}),
    "Llama with llama3 scaling": ("llama", {"rope_theta": 500000.0} | LLAMA3),
    "Llama with linear scaling": ("llama", {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}),
    "Qwen2": ("qwen2", {"rope_type": "default", "rope_theta": 1000000.0}),
}
FOLDERS = {
    "`--to hf` in F32": ("f32", ["--to", "hf", "--dtype", "f32"]),
    "`--to hf` in F16": ("f16", ["--to", "hf"]),
    "`--to bnb` of bnb-int8": ("bnb-int8", ["--to", "bnb"]),
    "`--to bnb` of nf4": ("nf4", ["--to", "bnb"]),
    "`--to compressed-tensors` of int8": ("int8", ["--to", "compressed-tensors"]),
    "`--to compressed-tensors` of int4-g32": ("int4-g32", ["--to", "compressed-tensors"]),
}


def compute(folders):
    """Writes ids, logits and greedy continuation of each prompt to `FOLDER.N.npz`, by the version N of this process, whose
    number is printed."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the models are tiny
    for folder in folders:
        # Where activations or weights are rounded, aibit's own continuation may be another.
        steps = STEPS if "-f32" in folder else 0
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        # Version 5 takes another type than the file's for some tensors of a model that bitsandbytes has quantized.
        dtype = "auto" if "bitsandbytes" in pathlib.Path(folder, "config.json").read_text() else torch.float32
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=dtype).eval()
        arrays = {}
        for index, prompt in enumerate(PROMPTS):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(ids).logits.float()
                continued = ids
                for _ in range(steps):
                    best = model(continued).logits[:, -1:].argmax(-1)
                    continued = torch.cat([continued, best], 1)
            arrays |= {f"ids{index}": ids[0], f"logits{index}": logits[0], f"greedy{index}": continued[0, ids.shape[1] :]}
        np.savez(f"{folder}.{transformers.__version__[0]}.npz", **arrays)
    print(transformers.__version__)


def computed(version, folders):
    """The exact version, and what it computes for each folder."""
    environment = os.environ | ({"PYTHONPATH": os.environ["TRANSFORMERS_4"]} if version == 4 else {})
    command = [sys.executable, "-B", __file__, "--compute", *folders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"transformers {version}: {done.stderr[-2000:]}")
    exact = done.stdout.split()[-1]
    assert exact.startswith(f"{version}."), exact
    return exact, {folder: dict(np.load(f"{folder}.{version}.npz")) for folder in folders}


def apart(first, second):
    """The largest difference of two sets of logits, as a share of the largest logit."""
    pairs = [(first[f"logits{i}"], second[f"logits{i}"]) for i in range(len(PROMPTS))]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def run(aibit, *arguments):
    done = subprocess.run([aibit, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr}")
    return done.stdout


def check(aibit, export, four, five, reference):
    """What both versions make of an export, in words, and whether it is right."""
    distance = apart(four, five)
    ok = distance <= TOLERANCE
    notes = [f"logits of {len(PROMPTS)} prompts at most {distance:.1e} of the largest apart"]
    same_ids = same_text = True
    for index, prompt in enumerate(PROMPTS):
        report = json.loads(
            run(aibit, "run", export["archive"], "-p", prompt, "-n", STEPS, "--temp", "0", "--ignore-eos", "--json")
        )
        for found in four, five:
            same_ids &= report["prompt_ids"] == found[f"ids{index}"].tolist()
            same_text &= report["generated_ids"][: len(found[f"greedy{index}"])] == found[f"greedy{index}"].tolist()
    notes.append("aibit's prompt ids" if same_ids else "prompt ids DIFFER from aibit's")
    ok &= same_ids
    if export["preset"] == "f32":
        distance = apart(five, reference)
        notes.append(f"{distance:.1e} from the original folder")
        notes.append(f"aibit's {STEPS} greedy ids" if same_text else "greedy ids DIFFER from aibit's")
        ok &= distance <= TOLERANCE and same_text
    return "; ".join(notes), bool(ok)


def main():
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if sys.argv[1] == "--compute":
        compute(sys.argv[2:])
        return
    aibit, model, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]) / "transformers"
    work.mkdir()
    original = work / "GPT-2"
    shutil.copytree(model, original)
    subjects = {"GPT-2": (original, original)}
    for name, (base, rope) in BORN_FROM_GGUF.items():
        folder = work / name.replace(" ", "-")
        shutil.copytree(model.parent / "cases/base" / base, folder)
        config = json.loads((folder / "config.json").read_text())
        config["rope_parameters"] = rope
        (folder / "config.json").write_text(json.dumps(config))
        file, archive = folder.with_suffix(".gguf"), folder.with_suffix(".aibit")
        run(aibit, "pack", folder, "-o", archive, "-q", "f32")
        run(aibit, "export", archive, "--to", "gguf", "-o", file)
        subjects[f"{name} from GGUF"] = (file, folder)
    exports = []
    for name, (source, original) in subjects.items():
        for what, (preset, options) in FOLDERS.items():
            # Blocks of 64 do not fit rows of 32, nor compressed-tensors layers of the kind Conv1D.
            if (preset == "nf4" and source != original) or ("compressed-tensors" in options and source == original):
                continue
            folder = work / f"export{len(exports)}-{preset}"
            archive = folder.with_suffix(".aibit")
            run(aibit, "pack", source, "-o", archive, "-q", preset, "--requantize")
            run(aibit, "export", archive, *options, "-o", folder)
            export = {"what": f"{what}, {name}", "preset": preset, "archive": archive, "folder": str(folder)}
            exports.append(export | {"original": str(original)})
    folders = [export["folder"] for export in exports]
    version4, fours = computed(4, folders)
    # Version 4 does not know what version 5 writes, which the originals are.
    version5, fives = computed(5, folders + sorted({export["original"] for export in exports}))
    for export in exports:
        folder = export["folder"]
        result, ok = check(aibit, export, fours[folder], fives[folder], fives[export["original"]])
        engine = f"transformers {version4} and {version5}"
        print(json.dumps({"engine": engine, "what": export["what"], "result": result, "ok": ok}), flush=True)


main()
