"""What a training that is through prints: every line can be copied, and names what is there."""

import shlex

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.registration.command_line import PROGRAMS, program_of
from cinema_verl.training import next_steps as module
from cinema_verl.training.next_steps import next_steps
from cinema_verl.utils import native_reasoning


@pytest.fixture
def said(tmp_path, monkeypatch):
    """The lines by name, of a run that saved steps 2 and 10 and exported weights to `exported` of each checkpoint."""

    def said(recipe, exported, *overrides, steps=(2, 10)):
        folder = tmp_path / "the run"
        monkeypatch.setattr(module, "complete_steps", lambda folder: list(steps))
        for step in steps if exported else ():
            weights = folder / f"global_step_{step}" / exported / "model.safetensors"
            weights.parent.mkdir(parents=True)
            weights.touch()
        overrides = [f"+recipe={recipe}", f"trainer.default_local_dir={str(folder)!r}", *overrides]
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose(PROGRAMS[program_of(recipe)], overrides=overrides)
        return folder, dict(line.split(maxsplit=1) for line in next_steps(config).splitlines())

    return said


def test_a_policy_that_was_exported_is_evaluated_as_it_is(said):
    folder, lines = said("cinema_cpu", "actor/huggingface", "data.val_files=/data/test.parquet")
    policy = f"{folder}/global_step_10/actor/huggingface"
    assert lines["policy"] == policy
    assert shlex.split(lines["report"]) == ["cinema-verl", "report", str(folder)]
    assert shlex.split(lines["evaluation"]) == [
        "python",
        "-m",
        "verl.trainer.main_ppo",
        "+recipe=cinema_evaluate_cpu",
        f"actor_rollout_ref.model.path={policy}",
        "data.val_files=[/data/test.parquet]",
        f"trainer.validation_data_dir={folder}/evaluation/global_step_10",
    ]


def test_one_that_was_not_is_evaluated_from_its_shards_and_can_be_merged(said):
    folder, lines = said(
        "cinema_without_hint",
        "",
        "data.val_files=[/a.parquet,/b.parquet]",
        "actor_rollout_ref.model.path=/models/m",
        f"{native_reasoning.KEY}=strip",
    )
    assert shlex.split(lines["evaluation"])[3:] == [
        "+recipe=cinema_evaluate",
        "actor_rollout_ref.model.path=/models/m",
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={folder}/global_step_10",
        "data.val_files=[/a.parquet,/b.parquet]",
        "data.cinema_prompt_mode=cinema_without_hint",
        f"{native_reasoning.KEY}=strip",
        f"trainer.validation_data_dir={folder}/evaluation/global_step_10",
    ]
    assert "policy" not in lines
    exported = f"{folder}/policy-10"
    assert shlex.split(lines["export"]) == ["cinema-verl", "export", str(folder), "--output", exported]
    assert shlex.split(lines["ask"])[:3] == ["cinema-verl", "ask", exported]


def test_without_a_checkpoint_there_is_a_report(said):
    _, lines = said("cinema_cpu", "", steps=())
    assert set(lines) == {"report"}


def test_a_cold_start_names_its_policy(said):
    folder, lines = said("cinema_cold_start_cpu", "huggingface")
    assert lines["policy"].startswith(f"{folder}/global_step_10/huggingface ")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0$\n\r", exclude_categories=("Cc",)), min_size=1)


@given(NAMES.filter(lambda name: not name.endswith("\\") and name not in (".", "..")))
def test_a_folder_of_any_name_is_read_back_by_hydra(name):
    parser = OverridesParser.create()
    one, many = parser.parse_overrides([module._override("a.b", f"/{name}"), f"c=[{module._quoted(f'/{name}')},d]"])
    assert one.value() == f"/{name}"
    assert many.value() == [f"/{name}", "d"]
