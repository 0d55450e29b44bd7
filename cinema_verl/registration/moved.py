"""Modules that have moved: importing one by its old dotted name is an error that says the new name.

There are no aliases. Python asks the finder here last, when nothing else has found a module.
"""

import sys
from collections.abc import Sequence

_PACKAGE = "cinema_verl."

_SOURCES = (
    "build conversations fields options emma geometry3k llava_video_178k m4_instruct mantis_instruct mathvision "
    "mathvista mirb mm_eureka mmdu mmiu mmk12 mmr1 muirbench mv_math mvbench openmmreasoner own rl_parquet video_mme "
    "video_r1 video_r1_cot videommmu videorft_cot videorft_rl virl39k"
)

MOVED: dict[str, str] = {
    "advantage": "training.advantage",
    "agent_loop": "training.agent_loop",
    "agent_loop_manager": "training.agent_loop_manager",
    "checkpoint": "training.checkpoint",
    "cold_start.asking": "cold_start.requests",
    "cold_start.browser": "cold_start.trees_page",
    "cold_start.cli": "cold_start.command",
    "cold_start.client": "endpoint.client",
    "cold_start.images": "endpoint.images",
    "cold_start.ledger": "endpoint.ledger",
    "cold_start.limits": "endpoint.rate_limits",
    "cold_start.local_server": "rollout.openai_server",
    "cold_start.offline": "demo.cold_start",
    "cold_start.outcomes": "endpoint.outcomes",
    "cold_start.prices": "endpoint.token_costs",
    "cold_start.stub_server": "demo.stub_server",
    "command_line": "registration.command_line",
    "cpu": "training.cpu",
    "cpu.cold_start": "demo.train_policy",
    "cpu.engine": "training.cpu.engine",
    "cpu.measure": "demo.measure",
    "cpu.platform": "training.cpu.platform",
    "cpu.sft_patch": "registration.sft_patch",
    "cpu.tiny_model": "demo.tiny_model",
    "cpu.torchvision_ops": "utils.torchvision",
    "data.adapters": "prepare.sources",
    "data.adapters.dialects": "prepare.sources.placeholders",
    "data.adapters.golds": "prepare.sources.gold_answers",
    **{f"data.adapters.{name}": f"prepare.sources.{name}" for name in _SOURCES.split()},
    "data.convert": "prepare.convert",
    "data.decontaminate": "prepare.decontaminate",
    "data.decontamination_report": "prepare.decontamination_report",
    "data.digits": "demo.digits",
    "data.draft": "prepare.draft",
    "data.export": "prepare.export",
    "data.gallery": "checks.gallery",
    "data.host_memory": "checks.host_memory",
    "data.images": "prepare.media.images",
    "data.mix": "prepare.mix",
    "data.mix_spec": "prepare.mix_spec",
    "data.near": "prepare.near_duplicates",
    "data.paths": "prepare.media.paths",
    "data.phash": "prepare.media.phash",
    "data.pipeline": "prepare.pipeline",
    "data.preflight": "checks.preflight",
    "data.prepare": "prepare.commands.prepare",
    "data.readers": "prepare.readers",
    "data.run_files": "checks.survey",
    "data.sampling": "utils.stable_random",
    "data.shards": "prepare.shards",
    "data.spread": "utils.ray_map",
    "data.video": "prepare.media.video",
    "doctor": "checks.doctor",
    "dynamic_sampling": "training.dynamic_sampling",
    "evaluate.records": "runs.rollouts",
    "files": "utils.files",
    "generation": "rollout.generation",
    "hooks": "registration.hooks",
    "metrics": "training.metrics",
    "pages": "utils.pages",
    "report.locate": "runs.locate",
    "report.read": "report.questions",
    "resolvers": "utils.resolvers",
    "search_path": "registration.search_path",
    "settings": "training.settings",
    "shared_vision": "training.shared_vision",
    "trainer": "training.trainer",
    "worker": "training.worker",
}
"""Old name -> new name, both below `cinema_verl`. A test imports every new one."""


class MovedModules:
    """A finder for `sys.meta_path` that answers for the old names of this package, with an error."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """See `importlib.abc.MetaPathFinder.find_spec`.

        Raises:
            ModuleNotFoundError: for an old name, with the new one.
        """
        new = MOVED.get(name.removeprefix(_PACKAGE)) if name.startswith(_PACKAGE) else None
        if new is not None:
            raise ModuleNotFoundError(f"{name} has moved: it is {_PACKAGE}{new} now{_elsewhere(name, new)}", name=name)


def _elsewhere(name: str, new: str) -> str:
    """The modules of a package that have not moved with it: Python asks for the package alone, and first."""
    inside = {old.rpartition(".")[2]: to for old, to in MOVED.items() if f"{_PACKAGE}{old}".startswith(f"{name}.")}
    others = [f"{old} is {_PACKAGE}{to}" for old, to in inside.items() if to != f"{new}.{old}"]
    return f" ({', '.join(others)})" if others else ""


def install() -> None:
    """Put the finder at the end of `sys.meta_path`, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
