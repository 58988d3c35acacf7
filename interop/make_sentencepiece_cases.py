"""Writes ../fixtures/golden/gguf-tokenizer/sentencepiece.json: a vocabulary, and texts with the ids that llama.cpp gives.

    python make_sentencepiece_cases.py               the golden file
    python make_sentencepiece_cases.py MODEL TEXTS   compares llama.cpp's ids with those that aibit's tokenizer.json gives
                                                     for a SentencePiece model of one's own; TEXTS has a text a line

The vocabulary is trained on the texts themselves with Llama 2's settings. The second form runs `aibit pack`'s reader by
way of `cargo run -p aibit-gguf --example tokenizer_json`.
"""

import importlib.metadata
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import sentencepiece
import tokenizers

from make_tokenizer_cases import CONTROL, GOLDEN, NORMAL, PLAIN, USER_DEFINED, texts
from smollm2_tokenizer import LlamaVocabulary

VOCABULARY = 800

# Tokens that are replaced in a run: added tokens of both kinds.
CHANGES = [[790, "<|im_start|>", CONTROL], [795, "hello there", USER_DEFINED]]

RUNS = [
    {"add_space_prefix": True},
    {"add_space_prefix": False},
    {"add_space_prefix": True, "changes": CHANGES},
]


def train():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PLAIN),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=0.98,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def vocabulary(processor, changes=()):
    """Tokens, scores and types, as llama.cpp's converter writes them."""
    tokens, scores, types = [], [], []
    for number in range(processor.vocab_size()):
        tokens.append(processor.id_to_piece(number))
        scores.append(processor.get_score(number))
        kinds = [(processor.is_unknown, 2), (processor.is_control, CONTROL), (processor.is_unused, 5), (processor.is_byte, 6)]
        types.append(next((kind for is_kind, kind in kinds if is_kind(number)), NORMAL))
    for number, token, kind in changes:
        tokens[number], types[number] = token, kind
    return tokens, scores, types


def write(path, tokens, scores, types, add_space_prefix):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(add_space_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def golden():
    processor = train()
    tokens, scores, types = vocabulary(processor)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vocabulary.gguf"
        for run in RUNS:
            changes = run.get("changes", [])
            write(path, *vocabulary(processor, changes), run["add_space_prefix"])
            llama = LlamaVocabulary(path)
            ids = [llama.encode(text, parse_special=True) for text in texts()]
            runs.append({"add_space_prefix": run["add_space_prefix"], "changes": changes, "ids": ids})
    versions = {name: importlib.metadata.version(name) for name in ["llama-cpp-python", "sentencepiece"]}
    result = {"versions": versions, "tokens": tokens, "scores": scores, "types": types, "texts": texts(), "runs": runs}
    text = json.dumps(result, ensure_ascii=True, separators=(",", ":"))
    text = text.replace("],[", "],\n[").replace('{"add_space', '\n{"add_space').replace('"texts"', '\n"texts"')
    (GOLDEN.parent / "sentencepiece.json").write_text(text + "\n")


def compare(model, path):
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    lines = pathlib.Path(path).read_text().split("\n")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "vocabulary.gguf"
        write(file, *vocabulary(processor), True)
        llama = LlamaVocabulary(file)
        command = ["cargo", "run", "-q", "-p", "aibit-gguf", "--example", "tokenizer_json", str(file)]
        ours = tokenizers.Tokenizer.from_str(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    different = count = 0
    for line in lines:
        expected = llama.encode(line, parse_special=True)
        found = ours.encode(line, add_special_tokens=False).ids
        count += len(expected)
        if expected != found:
            different += 1
            print(f"{line!r}: llama.cpp {expected[:20]}, here {found[:20]}, sentencepiece {processor.encode(line)[:20]}")
    print(f"{len(lines)} texts, {count} tokens, {different} texts differ")
    return 1 if different else 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(compare(*sys.argv[1:]))
    golden()
