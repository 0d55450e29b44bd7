"""The one patch: what it replaces, where it refuses, and whether verl still needs it."""

import inspect
from importlib import metadata

import pytest
from hydra._internal.callbacks import Callbacks
from omegaconf import OmegaConf

from cinema_verl.registration import sft_patch
from cinema_verl.registration.hooks import ALLOW_UNTESTED
from cinema_verl.registration.sft_patch import CinemaSFT

VERL = "/somewhere/site-packages/verl/trainer/sft_trainer.py"


def program(path=VERL, source="def run_sft(config): ...\ndef main(config): run_sft(config)"):
    """The `main` of a program whose file is `path`."""
    namespace = {}
    exec(compile(source, path, "exec"), namespace)
    return namespace["main"]


@pytest.fixture(autouse=True)
def _no_permission(monkeypatch):
    monkeypatch.delenv(ALLOW_UNTESTED, raising=False)


def test_the_running_program_gets_our_trainer_and_verl_s_module_is_as_it_was():
    import verl.trainer.sft_trainer as theirs

    before = theirs.run_sft
    main = program()
    CinemaSFT().on_job_start(None, task_function=main)
    assert main.__globals__["run_sft"].__module__ == "cinema_verl.training.sft.trainer"
    assert theirs.run_sft is before


@pytest.mark.parametrize("path", ["/mine/train.py", "/site-packages/verl/trainer/sft_trainer_ray.py"])
def test_another_program_is_refused(path):
    with pytest.raises(SystemExit, match=r"for `torchrun … -m verl\.trainer\.sft_trainer`, and this is .*\.py"):
        CinemaSFT().on_job_start(None, task_function=program(path))


def test_another_verl_is_refused_unless_insisted_on(monkeypatch):
    monkeypatch.setattr(sft_patch, "VERIFIED_WITH", "0.0.1")
    main = program()
    with pytest.raises(SystemExit, match=rf"made for verl 0\.0\.1.*{ALLOW_UNTESTED}=1"):
        CinemaSFT().on_job_start(None, task_function=main)
    assert main.__globals__["run_sft"].__module__ != "cinema_verl.training.sft.trainer"
    monkeypatch.setenv(ALLOW_UNTESTED, "1")
    CinemaSFT().on_job_start(None, task_function=main)


def test_hydra_lets_a_refusal_through():
    """Hydra makes a warning of an `Exception` from a callback, and goes on."""
    callbacks = Callbacks(OmegaConf.create({"hydra": {"callbacks": {}}}))
    callbacks.callbacks.append(CinemaSFT())
    with pytest.raises(SystemExit):
        callbacks.on_job_start(None, task_function=program("/mine/train.py"))


@pytest.mark.parametrize("recipe", [f"cinema_cold_start{variant}" for variant in ("", "_cpu", "_one", "_cot")])
def test_every_recipe_of_the_cold_start_asks_for_it(recipe):
    import verl  # noqa: F401  its plugin adds the search path
    from hydra import compose, initialize_config_module
    from hydra.utils import instantiate

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", overrides=[f"+recipe={recipe}"], return_hydra_config=True)
    assert isinstance(instantiate(config.hydra.callbacks.cinema_sft), CinemaSFT)


def test_verl_still_needs_it():
    """When this fails: see whether the program takes its trainer from the configuration, and how it resumes."""
    import verl.trainer.sft_trainer as theirs
    import verl.utils.distributed as distributed

    assert metadata.version("verl") == sft_patch.VERIFIED_WITH
    assert "trainer = SFTTrainer(config=config)" in inspect.getsource(theirs.run_sft)
    assert "run_sft(config)" in inspect.getsource(inspect.unwrap(theirs.main))
    assert 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in inspect.getsource(distributed)
    loop = inspect.getsource(theirs.SFTTrainer.fit)
    assert "start_epoch = global_step // self.steps_per_epoch" in loop
    assert "set_epoch(epoch=epoch)" in loop, "and the loader's state decides the rest: exhausted, after an epoch"
