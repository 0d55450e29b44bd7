"""What an evaluation that was cut off leaves, and when the next one may go on with it."""

import os
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cinema_verl.data.check import DataError
from cinema_verl.evaluate.unfinished import NAME, Unfinished, asked_of

ASKED = {"model": "policy", "temperature": 1.0}
A, B = ("digits/same/0", "digits/same"), ("digits/same/0", "digits/same?images=blank")


def said(*ids: int, stop_reason: str = "answer"):
    return np.array(ids, dtype=np.int32), stop_reason


def left(folder: Path, asked=ASKED):
    """What is there for the next run."""
    file = Unfinished(folder, asked)
    file.close()
    return {
        question: {session: (response.tolist(), stop) for session, (response, stop) in answers.items()}
        for question, answers in file.answers.items()
    }


def leave(folder: Path, *answers) -> None:
    file = Unfinished(folder, ASKED)
    file.add(answers)
    file.close()


def test_answers_wait_for_the_next_run_by_question_condition_and_session(tmp_path):
    leave(
        tmp_path / "new" / "folder",
        (A, 0, said(1, 2, 151655)),
        (A, 3, said(stop_reason="placeholder")),
        (B, 0, said(4)),
    )
    assert left(tmp_path / "new" / "folder") == {
        A: {0: ([1, 2, 151655], "answer"), 3: ([], "placeholder")},
        B: {0: ([4], "answer")},
    }


def test_the_third_run_has_what_the_first_and_the_second_left(tmp_path):
    leave(tmp_path, (A, 0, said(1)))
    leave(tmp_path, (A, 0, said(9)), (A, 1, said(2)))  # recalled, and so not written again
    assert left(tmp_path) == {A: {0: ([1], "answer"), 1: ([2], "answer")}}
    assert len((tmp_path / NAME).read_text().splitlines()) == 3


@given(cut=st.integers(0, 300), tail=st.sampled_from([b"", b"\0\0\0", b"\0\n"]))
def test_a_kill_at_any_byte_costs_the_last_line_only(tmp_path_factory, cut, tail):
    """And a power cut, which can leave zeros behind."""
    folder = tmp_path_factory.mktemp("cut")
    leave(folder, *((A, session, said(session, 7)) for session in range(4)))
    kept = (folder / NAME).read_bytes()[:cut]
    (folder / NAME).write_bytes(kept + tail)
    whole = {session: ([session, 7], "answer") for session in range(kept.count(b"\n") - 1)}
    assert left(folder) == ({A: whole} if whole else {})
    leave(folder, (A, 9, said(9)))
    assert left(folder) == {A: whole | {9: ([9], "answer")}}


def test_answers_to_something_else_are_neither_used_nor_lost(tmp_path):
    leave(tmp_path, (A, 0, said(1)))
    before = (tmp_path / NAME).read_bytes()
    says = r"unfinished\.jsonl holds 1 answers .* temperature was 1\.0, is 0\.7\. .* remove the file or choose another"
    with pytest.raises(DataError, match=says):
        Unfinished(tmp_path, ASKED | {"temperature": 0.7})
    assert (tmp_path / NAME).read_bytes() == before
    assert left(tmp_path)


def test_where_nothing_was_answered_anything_may_be_asked(tmp_path):
    leave(tmp_path)
    assert left(tmp_path, ASKED | {"temperature": 0.7}) == {}


def test_two_evaluations_do_not_write_to_one_folder(tmp_path):
    first = Unfinished(tmp_path, ASKED)
    with pytest.raises(DataError, match="another evaluation is writing to"):
        Unfinished(tmp_path, ASKED)
    first.close()
    left(tmp_path)


def test_it_goes_when_the_evaluation_is_written(tmp_path):
    file = Unfinished(tmp_path, ASKED)
    file.add([(A, 0, said(1))])
    file.remove()
    assert list(tmp_path.iterdir()) == []


# --- what answers depend on ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe():
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=["+recipe=cinema_evaluate", "data.val_files=none"])


@pytest.fixture
def asked(tmp_path, recipe):
    """`asked({key: value})`: what answers depend on in an evaluation of a made-up model over a made-up file."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "test.parquet").write_bytes(b"rows")
    made_up = {"data.val_files": [str(tmp_path / "test.parquet")], "actor_rollout_ref.model.path": str(model)}

    def asked(changes=MappingProxyType({})):
        config = OmegaConf.create(recipe)
        for key, value in {**made_up, **changes}.items():
            OmegaConf.update(config, key, value, force_add=True)
        return asked_of(config)

    return asked


def test_a_run_that_only_computes_otherwise_goes_on(asked):
    computes = {
        "data.val_batch_size": 8,
        "actor_rollout_ref.rollout.val_kwargs.n": 4,
        "actor_rollout_ref.rollout.gpu_memory_utilization": 0.3,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 4,
        "cinema.image_conditions": [],
        "reward.custom_reward_function.reward_kwargs.native_reasoning": "strip",
        "trainer.n_gpus_per_node": 4,
    }
    assert asked(computes) == asked()


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("actor_rollout_ref.rollout.val_kwargs.temperature", 0.7, "temperature"),
        ("actor_rollout_ref.rollout.val_kwargs.top_p", 0.9, "top_p"),
        ("actor_rollout_ref.rollout.name", "transformers", "engine"),
        ("actor_rollout_ref.rollout.dtype", "float32", "dtype"),
        ("data.cinema_prompt_mode", "direct", "prompt_mode"),
        ("data.max_response_length", 77, "max_response_length"),
        ("data.mm_processor_kwargs", {"max_pixels": 784}, "processor"),
        ("data.apply_chat_template_kwargs", {"enable_thinking": False}, "chat_template"),
        ("cinema.image_sample", 7, "image_sample"),
    ],
)
def test_what_changes_an_answer_is_another_evaluation(asked, key, value, name):
    before, after = asked(), asked({key: value})
    assert [name for name in before if before[name] != after[name]] == [name]


def test_other_weights_or_questions_at_the_same_place_are_others(asked, tmp_path):
    before = asked()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(b"WEIGHTS")  # of the same size
    os.utime(weights, ns=(1, 1))
    (tmp_path / "test.parquet").write_bytes(b"ROWS")
    after = asked()
    assert {name for name in before if before[name] != after[name]} == {"weights", "questions"}


def test_a_model_of_a_hub_is_known_by_its_name(asked):
    found = asked({"actor_rollout_ref.model.path": "someone/policy"})
    assert found["model"] == "someone/policy"
    assert found["weights"] == [None, None]
