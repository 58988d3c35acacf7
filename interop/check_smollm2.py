"""llama.cpp beside aibit on SmolLM2-135M-Instruct: `check_smollm2.py AIBIT MODEL.gguf WORK`.

    python check_smollm2.py --texts ROOT FILE    writes the texts that tokenizers are compared on, a JSON string a line

WORK holds the f32 package of MODEL and what aibit makes of the texts and of a prompt, as `cargo xtask interop` writes it.
Ids must be llama.cpp's, for the compiled tokenizer and for tokenizer.json. The package goes out as an F32 GGUF file; logits
that llama.cpp computes of it, with its cache in F32 too, must be aibit's within 2e-3 at every position: both sum F32 products,
in another order. The file in Q4_1 has the same values, but llama.cpp quantizes activations for it in blocks of 32; how far that
moves logits is told, and only the first token must be the same. Prints one JSON object per check.
"""

import json
import pathlib
import random
import subprocess
import sys

import llama_cpp
import numpy as np
import tokenizers

import make_tokenizer_cases
from smollm2_tokenizer import LlamaVocabulary, compare

TOLERANCE = 2e-3
TEXTS = 10_000
F32 = 0  # GGML_TYPE_F32

ENGINE = f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"

# Letters by script: first and last code point.
SCRIPTS = [
    (0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x586), (0x5D0, 0x5EA),
    (0x620, 0x65F), (0x904, 0x94D), (0xE01, 0xE4E), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1780, 0x17D3),
    (0x1E00, 0x1EFF), (0x3041, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF01, 0xFF5E), (0x1D400, 0x1D7FF),
]
DIGITS = "0123456789" * 3 + "\u0663\u0669\u0967\u096f\uff15\u00b2\u00bd\u2167\u2460\u4e94"
SPACES = [" ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u200b"]
EMOJI = [
    "\U0001f600", "\U0001f44d\U0001f3fd", "\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f\u200d\U0001f525",
    "1\ufe0f\u20e3", "\u263a\ufe0f", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001fae0", "\u2708",
]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "'s", "'LL", "\u2019re", "\u201c", "\u2014", "\u20ac", "\u2264"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "<repo_name>", "<|im_end|> "]


def piece(source):
    """A word, a number, spaces, an emoji, punctuation, a special token, or any characters at all."""
    kind = source.randrange(20)
    if kind < 7:
        first, last = source.choice(SCRIPTS)
        return "".join(chr(source.randint(first, last)) for _ in range(source.randint(1, 9)))
    if kind < 10:
        return "".join(source.choice(DIGITS) for _ in range(source.randint(1, 6)))
    if kind < 14:
        return source.choice(SPACES)
    if kind < 16:
        return source.choice(EMOJI)
    if kind < 18:
        return source.choice(PUNCTUATION) * source.choice([1, 1, 1, 2, 3])
    if kind < 19:
        return source.choice(SPECIAL)
    return "".join(map(any_character, [source] * source.randint(1, 4)))


def any_character(source):
    """Any code point but surrogates, which no text has; early planes more often."""
    code = source.randrange(source.choice([0x80, 0x800, 0x10000, 0x110000]))
    return chr(code if not 0xD800 <= code < 0xE000 else 0xFFFD)


def texts(root):
    """The lines of the repository's documents, the unusual texts of the golden file, and seeded mixtures up to TEXTS."""
    documents = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("fixtures/**/*.md")]
    lines = [line for path in sorted(documents) for line in path.read_text().split("\n") if line]
    lines = lines[: TEXTS // 2] + make_tokenizer_cases.texts()
    source = random.Random(2)
    while len(lines) < TEXTS:
        lines.append("".join(piece(source) for _ in range(source.randint(1, 14))))
    return lines


def check_tokenizer(model, work, ours):
    llama = LlamaVocabulary(model)
    library = tokenizers.Tokenizer.from_file(str(work / "tokenizer.json"))
    lines = [json.loads(line) for line in (work / "texts.jsonl").read_text().splitlines()]
    compiled = [text for text, ids in zip(lines, ours["texts"], strict=True) if llama.encode(text, True) != ids]
    tokens, recognised = compare(llama, library, lines, parse_special=True)
    _, as_text = compare(llama, library, lines, parse_special=False)
    for text in compiled[:5] + [text for text, _, _ in (recognised + as_text)[:5]]:
        print(f"{text!r}: other ids than llama.cpp's", file=sys.stderr)
    result = (
        f"{len(lines)} texts, {tokens} tokens; texts with other ids: {len(compiled)} with the compiled tokenizer, "
        f"{len(recognised)} with `tokenizer.json`, {len(as_text)} with special tokens as text"
    )
    ok = ours["compiled"] and not compiled and not recognised and not as_text
    return {"engine": ENGINE, "what": "tokenizer of SmolLM2-135M-Instruct, Q4_1", "result": result, "ok": ok}


def theirs(path, ids):
    """llama.cpp's logits after each of `ids`, a prompt at once and its continuation one by one."""
    llm = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=2, n_threads_batch=2, verbose=False, logits_all=True, type_k=F32, type_v=F32
    )
    prompt, continuation = ids
    llm.eval(prompt)
    for id in continuation:
        llm.eval([id])
    return np.array(llm.scores[: len(prompt) + len(continuation)])


def check_logits(path, what, ours, logits, tolerance):
    ids = ours["prompt_ids"], ours["generated_ids"]
    found = theirs(path, ids)
    first, steps = len(ids[0]) - 1, len(ids[1])
    greedy = found.argmax(axis=1)[first : first + steps].tolist()
    equal = next((i for i, (a, b) in enumerate(zip(greedy, ids[1])) if a != b), steps)
    apart = np.abs(found - logits).max(axis=1)
    result = (
        f"{first + 1} + {steps} tokens: logits at most {apart.max():.2e} apart ({np.median(apart):.2e} at the median position), "
        f"of up to {np.abs(logits).max():.0f}; greedy ids equal for {equal} of {steps} tokens"
    )
    ok = bool(apart.max() <= tolerance and equal == steps) if tolerance else equal > 0
    return {"engine": ENGINE, "what": what, "result": result, "ok": ok}


def main():
    if sys.argv[1] == "--texts":
        root, target = map(pathlib.Path, sys.argv[2:])
        target.write_text("".join(json.dumps(text) + "\n" for text in texts(root)))
        return
    aibit, model, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    ours = json.loads((work / "ours.json").read_text())
    logits = np.fromfile(work / "ours.f32", "<f4").reshape(-1, ours["vocabulary"])
    exported = work / "smollm2-f32.gguf"
    command = [aibit, "export", work / "smollm2-f32.aibit", "--to", "gguf", "-o", exported]
    subprocess.run(command, check=True, capture_output=True)
    print(json.dumps(check_tokenizer(model, work, ours)), flush=True)
    name = "SmolLM2-135M-Instruct"
    for path, what, tolerance in [
        (exported, f"`--to gguf` of {name}, Q4_1 packed as f32", TOLERANCE),
        (model, f"{name}, Q4_1, the file itself beside its f32 package", None),
    ]:
        print(json.dumps(check_logits(path, what, ours, logits, tolerance)), flush=True)


main()
