"""What the Python engines share: arguments, repetitions and the form of the output.

    ENGINE.py --model PATH --threads T --prefill 128,512 --decode 128 --depth 0 --repetitions 3
        prints one JSON object per repetition: {"test": "pp128", "tokens_per_s": 2345.6}
    ENGINE.py --model PATH --threads T --tokenizer FILE --prompt TEXT
        prints the first token that follows the prompt, as text
"""

import argparse
import json
import os
import sys
import time


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prefill", default="")
    parser.add_argument("--decode", default="")
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tokenizer")
    parser.add_argument("--prompt")
    parser.add_argument("--backend", help="OpenVINO's attention backend")
    return parser.parse_args()


def ids(n):
    """Which tokens makes no difference to the speed; they only have to exist."""
    return [i * 7919 % 50257 for i in range(n)]


def measure(args, seconds):
    """Prints the speeds; `seconds(kind, n, depth)` runs one measurement and returns its seconds."""
    for kind, sizes in [("pp", args.prefill), ("tg", args.decode)]:
        for n in [int(size) for size in sizes.split(",") if size]:
            for repetition in range(args.repetitions + 1):
                speed = n / seconds(kind, n, args.depth)
                if repetition > 0:
                    test = f"{kind}{n}" if args.depth == 0 else f"{kind}{n} @ d{args.depth}"
                    print(json.dumps({"test": test, "tokens_per_s": speed}), flush=True)


def measure_by_difference(args, generate):
    """The same for an engine that only generates: decoding alone is what `n` more tokens cost than one."""

    def timed(length, n):
        start = clock()
        generate(ids(length), n)
        return clock() - start

    def seconds(kind, n, depth):
        if kind == "pp":
            return timed(n, 1)
        before = timed(max(depth, 1), 1)
        return timed(max(depth, 1), n + 1) - before

    measure(args, seconds)


def first_token(args, next_id):
    """Prints the token after the prompt, and leaves without tearing the engine down: no user waits for that."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(args.tokenizer)
    encoding = tokenizer.encode(args.prompt)
    id = next_id(encoding)
    sys.stdout.write(tokenizer.decode([id]))
    sys.stdout.flush()
    os._exit(0)


clock = time.perf_counter
