"""Which model fits which machine, and how: computed by `cinema-verl plan`'s arithmetic, from the recipes.

    python tools/hardware_tables.py docs/hardware.md

For each machine and model, the first of `WAYS` that fits is shown with the overrides that make it, its memory, and the
estimate of hours and disk. A cell that no way fits says so.
"""

import copy
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from omegaconf import OmegaConf
from recipe_tables import below, rewrite

from cinema_verl.checks.compose import compose
from cinema_verl.checks.fits import DEVICES, effort, fits, known_models, load_of
from cinema_verl.checks.memory import GIB, memory, shape_of

MARKER = "<!-- below: made by `python tools/hardware_tables.py docs/hardware.md` -->"
MACHINES = {
    # name: (GB of a GPU, nodes, GPUs a node, recipe with all parameters, recipe with LoRA)
    "1 x 24 GB": (24, 1, 1, None, "cinema_3b_lora_24gb"),
    "1 x 80 GB": (80, 1, 1, "cinema", "cinema_lora"),
    "4 x 80 GB": (80, 1, 4, "cinema", "cinema_lora"),
    "8 x 80 GB": (80, 1, 8, "cinema", "cinema_lora"),
    "2 nodes of 8 x 80 GB": (80, 2, 8, "cinema_2nodes", "cinema_lora"),
}
TOKENS = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
OFFLOAD = [f"actor_rollout_ref.actor.fsdp_config.{what}_offload" for what in ("param", "optimizer")]
PARALLEL = "actor_rollout_ref.rollout.tensor_model_parallel_size"
SHARE = "actor_rollout_ref.rollout.gpu_memory_utilization"
FEWEST = 8  # sequences beside each other, or generation takes days


@cache
def composed(recipe: str) -> Any:
    config, findings = compose(recipe, [])
    if config is None:
        raise SystemExit(f"{recipe}: {findings[-1].detail}")
    return config


@cache
def trial(recipe: str) -> Any:
    """A copy to try overrides on: every one of `ways` sets the same keys."""
    return copy.deepcopy(composed(recipe))


def ways(machine: tuple[Any, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(recipe, overrides), from what is simplest and fastest to what takes least memory."""
    _, nodes, gpus, full, lora = machine
    for recipe in filter(None, (full, lora)):
        longest = composed(recipe).data.max_prompt_length + composed(recipe).data.max_response_length
        for offload, tokens, share in product((False, True), (16384, longest), (0.6, 0.75)):
            if share > 0.6 and not offload:
                continue  # the engine's share is not there while the shard stays
            for parallel in (each for each in (1, 2, 4, 8) if each <= gpus):
                yield (
                    recipe,
                    {
                        "trainer.nnodes": nodes,
                        "trainer.n_gpus_per_node": gpus,
                        **dict.fromkeys(OFFLOAD, offload),
                        TOKENS: tokens,
                        SHARE: share,
                        PARALLEL: parallel,
                    },
                )


def row(machine: tuple[Any, ...], model: str) -> str:
    """One line of a table."""
    shape = shape_of(known_models()[model])
    for recipe, overrides in ways(machine):
        base = composed(recipe)
        config = trial(recipe)
        for key, value in overrides.items():
            OmegaConf.update(config, key, value)
        load = load_of(config, machine[0] * GIB)
        found = memory(shape, load)
        if not fits(found, load.gpu) or found.sequences < FEWEST:
            continue
        spent = effort(config, shape, load, found, DEVICES[machine[0]])
        changed = [_short(key, value) for key, value in overrides.items() if OmegaConf.select(base, key) != value]
        kind = f"LoRA {load.lora_rank}" if load.lora_rank else "all"
        how = ", ".join([f"`{recipe}`", *dict.fromkeys(filter(None, changed))])
        disk = (spent.checkpoint + spent.rollouts) / 1e9
        return (
            f"| `{model}` | {kind} | {how} | {found.update / GIB:.0f} | {found.generate / GIB:.0f} | "
            f"{found.sequences:,} | {spent.hours:,.0f} | {disk:,.0f} |"
        )
    return f"| `{model}` | | does not fit | | | | | |"


def _short(key: str, value: Any) -> str:
    """An override in the words of `LEGEND`."""
    if key in OFFLOAD:
        return "offload" if value else "no offload"
    return {PARALLEL: f"tp {value}", TOKENS: f"tokens {value}", SHARE: f"share {value}"}.get(key, "")


LEGEND = f"""\
A recipe goes with the machine's `trainer.nnodes` and `trainer.n_gpus_per_node`; **tp** stands for `{PARALLEL}`,
**tokens** for `{TOKENS}`, **share** for `{SHARE}`, **offload** for `{OFFLOAD[0]}` and `optimizer_offload`.
"""


def tables() -> str:
    head = (
        "| model | trained | recipe | update | generate | sequences | hours | disk |\n"
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    )
    parts = [LEGEND]
    for name, machine in MACHINES.items():
        parts.append(f"### {name}\n\n{head}\n" + "\n".join(row(machine, model) for model in known_models()) + "\n")
    return "\n".join(parts)


def with_tables(page: str) -> str:
    """The page with everything below its marker made anew."""
    return below(MARKER, page, tables)


if __name__ == "__main__":
    rewrite(__doc__, with_tables)
