"""Writes ../fixtures/golden/gguf-tokenizer/cases.json: texts with the ids that llama.cpp gives for them.

    python make_tokenizer_cases.py            the golden file
    python make_tokenizer_cases.py --texts F  only the texts, a JSON string a line
    python make_tokenizer_cases.py --names    compares all names of pre-tokenizers that aibit treats alike

The vocabulary is that of ../fixtures/aibit-small-gpt2/tokenizer.json, written to a GGUF file without tensors.
"""

import importlib.metadata
import itertools
import json
import pathlib
import sys
import tempfile

import gguf

from smollm2_tokenizer import LlamaVocabulary

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "fixtures/aibit-small-gpt2/tokenizer.json"
GOLDEN = ROOT / "fixtures/golden/gguf-tokenizer/cases.json"

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# Tokens of the source that are replaced in a run: two bytes without a token, and added tokens of both kinds.
CHANGES = [
    [0x04, None, UNUSED],
    [0x1D, None, UNUSED],
    ["ĠBig", "<|im_start|>", CONTROL],
    ["ĠPun", "hello there", USER_DEFINED],
]

RUNS = [
    {"pre": "gpt-2"},
    {"pre": "smollm"},
    {"pre": "llama-bpe", "without_every": 5},
    {"pre": "smaug-bpe", "without_every": 5},
    {"pre": "qwen2"},
    {"pre": "smollm", "changes": CHANGES},
]

NAMES = {
    "gpt-2": "phi-2 jina-es jina-de jina-v1-en roberta-bpe gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion "
    "granite-docling",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    "smaug-bpe": "dbrx chatglm-bpe",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
}

PLAIN = [
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\n\n\n",
    " \n \n ",
    "a\r\nb\rc\nd",
    "a \n",
    "a\n ",
    "   a   b    c",
    "\t\tif x:\n\t\t\treturn\t1\n",
    "    for (int i = 0; i < 10; ++i) {\n        sum += a[i];\n    }\n",
    "fn main() { println!(\"{}\", 1_000.5e-3); } // end\n\n",
    "a\u00a0b \u00a0 c",
    "\u3000全角\u3000空白",
    "a\u2028b\u2029c\u0085d",
    "x\u200b\u200dy\ufeffz",
    "0 00 000 0000 00000 1234567890",
    "3.14159 -1,234,567.89 1e10 0x1F 50% $9.99",
    "٠١٢٣٤٥٦٧٨٩ ०१२३ 一二三 Ⅷ Ⅳ ½ ¾ x² H₂O ①②③",
    "v1.2.3-rc4 2024-02-29T23:59:60Z",
    "It's, we're, I've, I'm, they'll, he'd, can't",
    "IT'S, WE'RE, I'VE, I'M, THEY'LL, HE'D, CAN'T",
    "It'S we'Re I'vE They'lL 'Tis 'tWAS",
    "it’s we’re I’ve",
    "''s '''ll ' s ' ' 'S'T'RE",
    "rock'n'roll o'clock 'twas '90s",
    "你好，世界！今天天气很好。",
    "日本語のテキスト、カタカナとひらがな。漢字かな交じり文",
    "한국어 텍스트입니다. 안녕하세요?",
    "Привет, мир! Ёлка и съезд.",
    "Γειά σου Κόσμε· ΣΊΣΥΦΟΣ σίσυφος",
    "مرحبا بالعالم، كيف حالك؟",
    "שלום עולם",
    "नमस्ते दुनिया। कृपया",
    "สวัสดีชาวโลก ภาษาไทย",
    "Tiếng Việt có dấu",
    "İstanbul ışık ǅ ǆ ß ẞ ſtraße ﬁ ﬂ",
    "e\u0301 o\u0308 n\u0303 a\u030a\u0323 z\u0335\u0336",
    "é ö ñ ạ̊ Å Å",
    "\u0301\u0302 leading marks",
    "👍 👍🏽 👩‍🚀 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☺️ ❤️‍🔥 1️⃣",
    "a👍b 🎉🎉🎉!!! ツ ¯\\_(ツ)_/¯",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𐍈 𒀀 😀",
    "😀\u0004 \u0001\u0002\u0003 a\u001db \u001d\u0004!",
    "!\u0004! a\u0004a \u0004\u0004 the\u0004re",
    "\u0000 a\u0000b \u007f \u0080\u009f",
    "\ue000\uf8ff \U000f0000 \U0010fffd \ufdd0\uffff",
    "\U000e0041\U000e007f \u180e \u2060",
    "...!!!???---___***###@@@",
    " ... !!! , ; : ( ) [ ] { }",
    "<p class=\"x\">a &amp; b</p>\n<!-- c -->",
    "https://example.org/a/b?c=d&e=%20#f user@example.org",
    "{\"key\": [1, 2.5, null, true], \"s\": \"a\\nb\"}\r\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "$\\frac{1}{2}$ α≤β ∑∞ ∈ℝ → ⇒ ± √2",
    "“quoted” ‘single’ «guillemets» — em–en … ‰ © ® ™ € £ ¥",
    "<|endoftext|>",
    "a<|endoftext|>b <|endoftext|> c<|endoftext|>",
    "<|endoftext|><|endoftext|>\n",
    "<|endoftext <|endoftext| endoftext|> <||endoftext|>",
    "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n",
    "hello there, hello  there; Hello there, ohello therein",
    "[PAD0] [PAD1] <unk> <s> </s> [INST] <pad>",
    "The Big Pun is a Big name",
    "ALLCAPS camelCase snake_case kebab-case PascalCase MiXeD",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 4,
    "    " * 16 + "x" + " " * 33,
    "\n" * 20 + " " * 5 + "\n" * 3,
    "\r\r\n\n\r \r \n",
    "a!\n\nb?\r\n\r\nc.\n \n",
    "(\n[\r\n{ \n",
    "naïve façade coöperate Zürich Łódź",
    "Once upon a time, there was a little model that learned to count: 1, 2, 3.",
    "1st 2nd 3rd 4th 10x 100km/h 5'10\" 20°C",
    "#include <stdio.h>\nint main(void) { return 0; }\n",
    "SELECT * FROM t WHERE a >= 10 AND b LIKE '%x%';",
    "def f(x: int) -> str:\n    \"\"\"Doc.\"\"\"\n    return f\"{x!r:>10}\"\n",
    "一1二22三333四4444",
    "a1b22c333d4444e55555",
    "１２３４５ ｆｕｌｌｗｉｄｔｈ ！＂＃",
    "ᚠᛇᚻ ᏣᎳᎩ ខ្មែរ မြန်မာ አማርኛ",
    "\u1680ogham\u2003em\u2009thin\u202fnarrow\u205fmath",
    "ا\u064bل\u0651ع\u0650ر ب\u200cپ",
    "\u0e33\u0e4d ก็ \u0ec1",
]


def texts():
    combined = [
        f"{before}{apostrophe}{rest}{after}"
        for before, apostrophe, rest, after in itertools.product(
            ["", "a", " ", "1"], ["'"], ["s", "T", "re", "Ve", "lL", "x", "1"], ["", "y "]
        )
    ]
    spaces = ["".join(run) + "x" for run in itertools.product([" ", "\n", "\t", "\r"], repeat=3)]
    return PLAIN + combined + spaces


def characters():
    """The alphabet of byte-level vocabularies, by byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x144))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def vocabulary(run):
    source = json.loads(SOURCE.read_bytes())
    tokens = sorted(source["model"]["vocab"], key=source["model"]["vocab"].get)
    special = {token["content"] for token in source["added_tokens"]}
    types = [CONTROL if token in special else NORMAL for token in tokens]
    merges = [" ".join(merge) for merge in source["model"]["merges"]]
    every = run.get("without_every")
    if every:
        merges = [merge for rank, merge in enumerate(merges) if rank % every != every - 1]
    changed = []
    for old, new, kind in run.get("changes", []):
        old = characters()[old] if isinstance(old, int) else old
        number = tokens.index(old)
        new = f"[PAD{number}]" if new is None else new
        tokens[number], types[number] = new, kind
        merges = [merge for merge in merges if old not in (*merge.split(" "), merge.replace(" ", ""))]
        changed.append([number, new, kind])
    return tokens, types, merges, changed


def encode(run):
    tokens, types, merges, changed = vocabulary(run)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, "gpt2")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(run["pre"])
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        llama = LlamaVocabulary(path)
    return changed, [llama.encode(text, parse_special=True) for text in texts()]


def main():
    if sys.argv[1:2] == ["--texts"]:
        pathlib.Path(sys.argv[2]).write_text("".join(json.dumps(text) + "\n" for text in texts()))
        return 0
    if sys.argv[1:] == ["--names"]:
        different = 0
        for name, others in NAMES.items():
            run = {"pre": name, "without_every": 5}
            _, expected = encode(run)
            for other in others.split():
                _, found = encode({**run, "pre": other})
                count = sum(a != b for a, b in zip(expected, found))
                print(f"{other}: {count} of {len(found)} texts differ from {name}")
                different += count
        return 1 if different else 0
    runs = []
    for run in RUNS:
        changed, ids = encode(run)
        runs.append({"pre": run["pre"], "without_every": run.get("without_every", 0), "changes": changed, "ids": ids})
    golden = {"llama_cpp_python": importlib.metadata.version("llama-cpp-python"), "texts": texts(), "runs": runs}
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
    GOLDEN.write_text(text.replace('],[', '],\n[').replace('{"pre"', '\n{"pre"') + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
