#!/usr/bin/env bash
# verl 0.9.1: without flash-attn, log-probabilities of packed logits are computed with one kernel for every token.
#
# logprobs_from_logits works through its logits row by row, to need less memory. The FSDP engine hands it the logits of a
# micro-batch packed as (tokens, vocabulary), with and without padding removed, so that a row is a token: 2,048 tokens take 2,048
# logsumexp, and as many backward, instead of one for each sequence. The values are right; the update of a small model takes twice
# the time. The engine's fused path (model.use_fused_kernels=true, fused_kernel_options.impl_backend=torch) works in blocks of 512.
# Seen: verl 0.9.1, torch 2.13.0 (CPU), Python 3.11, no flash-attn; output "packed: 2048 logsumexp, of sequences: 8, the same
# values: True, packed takes 6 times as long" (the last figure varies from machine to machine; more than 2 is asked for).
# Exit code 0 while that is so; 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet verl==0.9.1 transformers==5.10.4 torch==2.13.0
cd "$work"
cat > logprobs.py <<'PYTHON'
import statistics
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from verl.utils.torch_functional import logprobs_from_logits


class Counting(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += "logsumexp" in str(func)
        return func(*args, **(kwargs or {}))


def once(logits, labels):
    logits = logits.clone().requires_grad_()
    begun = time.perf_counter()
    found = logprobs_from_logits(logits, labels)
    found.sum().backward()
    return found.detach(), time.perf_counter() - begun


torch.set_num_threads(1)
torch.manual_seed(0)
sequences, length, vocabulary = 8, 256, 512
logits = torch.randn(sequences, length, vocabulary)
labels = torch.randint(vocabulary, (sequences, length))
packed = logits.flatten(0, 1), labels.flatten()
counts = {}
for name, arguments in {"packed": packed, "of sequences": (logits, labels)}.items():
    with Counting() as counting, torch.no_grad():
        logprobs_from_logits(*arguments)
    counts[name] = counting.calls
same = torch.allclose(once(*packed)[0], once(logits, labels)[0].flatten())
ratio = statistics.median(once(*packed)[1] / once(logits, labels)[1] for _ in range(7))
print(
    f"packed: {counts['packed']} logsumexp, of sequences: {counts['of sequences']}, the same values: {same}, "
    f"packed takes {ratio:.0f} times as long"
)
assert counts == {"packed": sequences * length, "of sequences": sequences} and same and ratio > 2
PYTHON
"$work/venv/bin/python" logprobs.py
