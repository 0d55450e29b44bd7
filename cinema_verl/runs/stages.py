"""The stages that a run planned, from the configuration that it left."""

from dataclasses import replace

from cinema_verl.runs.locate import RunFiles
from cinema_verl.schedule import AnnealingSchedule, Stages


def planned(run: RunFiles) -> Stages | None:
    """As they were trained: without filters where `algorithm.filter_groups.enable` was off; None where nothing says so.

    A run from before there were stages filtered in all of its steps or in none.
    """
    ask = run.setting
    filters = bool(ask("algorithm.filter_groups.enable"))
    try:
        if section := ask("cinema.stages"):
            stages = Stages.of(section)
            return stages if filters else stages.unfiltered()
        keys = ("coefficient", "exploration_steps", "annealing_steps", "annealing_shape")
        schedule = AnnealingSchedule(*(ask(f"cinema.{key}") for key in keys)).stages
        metric = ask("algorithm.filter_groups.metric") if filters else None
        return Stages(tuple(replace(stage, filter=metric) for stage in schedule.stages))
    except (ValueError, AttributeError):
        return None
