#!/usr/bin/env python3
"""Reads an .aibit archive with zipfile, json, hashlib, safetensors and numpy; nothing of aibit is needed.

Prints the entries, compares each with its SHA-256 in the manifest, lists the tensors, and dequantizes one
INT8 matrix. Exits with 1 if a digest differs. The format is described in docs/format.md.

Usage:
    pip install safetensors numpy
    python3 docs/read_aibit.py model.aibit
    python3 docs/read_aibit.py model.aibit --matrix transformer.h.0.mlp.c_fc.weight
    python3 docs/read_aibit.py model.aibit --tensors 5        # list the first five tensors only
"""

import argparse
import hashlib
import json
import sys
import zipfile

import numpy as np
from safetensors.numpy import load as load_safetensors


def scales_name(name):
    """The tensor with the row scales of an INT8 matrix: `X.weight` -> `X.SCB`."""
    return name.removesuffix(".weight") + ".SCB"


def dequantize(codes, absmax):
    """fl(fl(code * absmax) * fl(1/127)), in f32, row by row."""
    inverse_127 = np.float32(1) / np.float32(127)
    return codes.astype(np.float32) * absmax[:, None] * inverse_127


def header_of(weights):
    """The JSON header of a safetensors file."""
    length = int.from_bytes(weights[:8], "little")
    return json.loads(weights[8 : 8 + length])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", help="the .aibit file")
    parser.add_argument("--matrix", metavar="NAME", help="INT8 matrix to dequantize [default: the first]")
    parser.add_argument("--tensors", metavar="N", type=int, help="list only the first N tensors")
    args = parser.parse_args()

    with zipfile.ZipFile(args.archive) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(entries["manifest.json"])
    if manifest["format"] != "aibit" or manifest["version"] != 1 or manifest.get("required_features"):
        sys.exit("not an archive of version 1 without further features")

    print(f"{manifest['architecture']}, recipe {manifest['recipe']['preset']}, made by {manifest['provenance']['tool']}")
    different = 0
    for record in manifest["entries"]:
        data = entries[record["name"]]
        same = len(data) == record["bytes"] and hashlib.sha256(data).hexdigest() == record["sha256"]
        different += not same
        print(f"{'ok' if same else 'DIFFERENT':<10}{record['name']:<26}{len(data):>12} bytes")
    print(f"{'':<10}{'manifest.json':<26}{len(entries['manifest.json']):>12} bytes")

    weights = entries["weights.safetensors"]
    header = {name: info for name, info in header_of(weights).items() if name != "__metadata__"}
    print(f"{len(header)} tensors, {len(manifest['tensors'])} parameters")
    for name, info in list(header.items())[: args.tensors]:
        record = manifest["tensors"].get(name)
        print(f"  {name:<40}{info['dtype']:<5}{str(info['shape']):<14}{record['scheme'] if record else '(scales)'}")

    matrices = [name for name in header if manifest["tensors"].get(name, {}).get("scheme") == "int8"]
    name = args.matrix or (matrices[0] if matrices else None)
    if name is None:
        print("no INT8 matrix")
    elif name not in matrices:
        sys.exit(f"`{name}` is not an INT8 matrix of this archive")
    else:
        tensors = load_safetensors(weights)
        matrix = dequantize(tensors[name], tensors[scales_name(name)])
        first = ", ".join(f"{value:.8f}" for value in matrix.flat[:4])
        print(f"{name} {list(matrix.shape)}: min {matrix.min():.8f}, max {matrix.max():.8f}, first {first}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
