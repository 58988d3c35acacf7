"""OpenVINO GenAI; protocol.py says how it is called."""

import numpy as np
import openvino
import openvino_genai

import protocol

args = protocol.arguments()
pipeline = openvino_genai.LLMPipeline(
    args.model, "CPU", INFERENCE_NUM_THREADS=args.threads, ATTENTION_BACKEND=args.backend
)


def generate(ids, n):
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = n
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    made = pipeline.generate(openvino.Tensor(np.array([ids], np.int64)), config).tokens[0]
    assert len(made) == n, f"{len(made)} tokens instead of {n}"
    return made


if args.prompt:
    protocol.first_token(args, lambda encoding: generate(encoding.ids, 1)[0])


# A server keeps the blocks of a prompt it has seen; a second prefill of the same ids would then cost nothing.
calls = 0


def generate_other_ids(ids, n):
    global calls
    calls += 1
    generate([(id + calls) % 50257 for id in ids], n)


protocol.measure_by_difference(args, generate_other_ids)
