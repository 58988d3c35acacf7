"""CTranslate2; protocol.py says how it is called."""

import json
from pathlib import Path

import ctranslate2

import protocol

args = protocol.arguments()
generator = ctranslate2.Generator(
    args.model, device="cpu", compute_type="int8", intra_threads=args.threads, inter_threads=1
)


def generate(tokens, n):
    result = generator.generate_batch(
        [tokens],
        max_length=n,
        min_length=n,
        sampling_topk=1,
        include_prompt_in_result=False,
        # An empty list: no token ends the text.
        end_token=[],
    )[0]
    made = result.sequences_ids[0]
    assert len(made) == n, f"{len(made)} tokens instead of {n}"
    return made


if args.prompt:
    protocol.first_token(args, lambda encoding: generate(encoding.tokens, 1)[0])

vocabulary = json.loads((Path(args.model) / "vocabulary.json").read_text())

protocol.measure_by_difference(args, lambda ids, n: generate([vocabulary[id] for id in ids], n))
