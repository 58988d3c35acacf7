"""ONNX Runtime; protocol.py says how it is called."""

import numpy as np
import onnxruntime as ort

import protocol

args = protocol.arguments()
options = ort.SessionOptions()
options.intra_op_num_threads = args.threads
options.inter_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
pasts = [value for value in session.get_inputs() if value.name.startswith("past")]
_, heads, _, head_width = pasts[0].shape
empty = [
    ort.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, 0, head_width), np.float32)) for _ in pasts
]
outputs = [value.name for value in session.get_outputs()]


def step(ids, past):
    """Returns the next token and the new cache, which stays in the engine's own memory."""
    feed = {"ids": ort.OrtValue.ortvalue_from_numpy(np.array([ids], np.int64))}
    feed.update({value.name: cache for value, cache in zip(pasts, past)})
    logits, *present = session.run_with_ort_values(outputs, feed)
    return int(logits.numpy()[0, -1].argmax()), present


if args.prompt:
    protocol.first_token(args, lambda encoding: step(encoding.ids, empty)[0])


def seconds(kind, n, depth):
    ids = protocol.ids(depth + n)
    past = step(ids[:depth], empty)[1] if depth else empty
    if kind == "pp":
        start = protocol.clock()
        step(ids[depth:], past)
        return protocol.clock() - start
    token = ids[depth]
    start = protocol.clock()
    for _ in range(n):
        token, past = step([token], past)
    return protocol.clock() - start


protocol.measure(args, seconds)
