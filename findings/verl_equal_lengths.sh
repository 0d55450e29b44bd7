#!/usr/bin/env bash
# verl 0.9.1: multimodal position ids of a batch whose sequences all have one length cannot be read after verl's own mending.
#
# torch.nested.as_nested_tensor, with which TransferQueue joins samples, takes samples that are all (4, L) for ragged along the
# first dimension. maybe_fix_3d_position_ids, which verl calls on every batch, declares position ids to be ragged along the
# sequence: right where lengths differ; where they do not, the offsets are of the other dimension, and taking it apart raises.
# Seen: verl 0.9.1, torch 2.13.0 (CPU), tensordict 0.10 and later, Python 3.11; output "lengths 5 and 7: as before" and "lengths
# 5 and 5: RuntimeError".
# Exit code 0 while that is so; 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet verl==0.9.1 transformers==5.10.4 torch==2.13.0
cd "$work"
cat > positions.py <<'PYTHON'
import torch
from tensordict import TensorDict
from verl.utils.tensordict_utils import maybe_fix_3d_position_ids


def rows(lengths):
    return [torch.arange(length).repeat(4, 1) + 100 * sample for sample, length in enumerate(lengths)]


def nested(samples):
    lengths = [sample.shape[1] for sample in samples]
    if len(set(lengths)) == 1:
        return torch.nested.as_nested_tensor(samples, layout=torch.jagged)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return torch.nested.nested_tensor_from_jagged(torch.cat(samples, dim=1), offsets, jagged_dim=2)


def after(lengths):
    samples = rows(lengths)
    batch = TensorDict({"position_ids": nested(samples)}, batch_size=[len(samples)])
    before = batch["position_ids"].unbind()
    assert all(torch.equal(one, other) for one, other in zip(before, samples))
    maybe_fix_3d_position_ids(batch)
    try:
        found = batch["position_ids"].unbind()
    except RuntimeError:
        return "RuntimeError"
    return "as before" if all(torch.equal(one, other) for one, other in zip(found, samples)) else "others"


found = {lengths: after(lengths) for lengths in ((5, 7), (5, 5))}
for (first, second), what in found.items():
    print(f"lengths {first} and {second}: {what}")
assert found == {(5, 7): "as before", (5, 5): "RuntimeError"}
PYTHON
"$work/venv/bin/python" positions.py
