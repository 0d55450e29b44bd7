"""verl's agent-loop manager whose workers process a question's images once (`cinema_verl.training.shared_vision`).

They also add to each score what verl's validation dumps do not have: where the question is from, how long the response
is, and how it ended. With `reward.num_workers=0` they score themselves, by verl's reward worker in their own process.
"""

from types import SimpleNamespace
from typing import Any, Final

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl.experimental.agent_loop import AgentLoopWorker
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap, _agent_loop_registry
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from cinema_verl.runs.stop_reason import StopReason
from cinema_verl.training.agent_loop import MetaActionAgentLoop
from cinema_verl.training.routing import refuse_to_go_on_without_replicas, spared_the_balancer
from cinema_verl.training.same_version import refuse_another_version
from cinema_verl.training.shared_vision import SharedImages
from cinema_verl.training.verdict import TRAINERS

STORED_AS: Final = "stored_as"
"""Beside a trajectory's media, which verl does not store: the key that it will have in the transfer queue."""

OURS: Final = {"_target_": f"{MetaActionAgentLoop.__module__}.{MetaActionAgentLoop.__qualname__}"}
"""As verl's registry has it."""


def scorer_here(config: Any) -> Any:
    """Answers in this process as the handle of a `RewardLoopWorker` does from another one."""
    worker = RewardLoopWorker(config)
    return SimpleNamespace(compute_score=SimpleNamespace(remote=worker.compute_score))


class SharingAgentLoopWorker(AgentLoopWorkerTQ.__ray_actor_class__):  # type: ignore[misc, name-defined]
    """verl's agent-loop worker that runs the processor over shared images once."""

    llm_client: Any
    reward_loop_worker_handles: list[Any] | None

    def __init__(self, *args: Any, **kwargs: Any):
        refuse_another_version()
        # What AgentLoopWorkerTQ.__init__ does. It cannot be called: Ray ships the class that `@ray.remote` hides by
        # value, and the copy's zero-argument super() belongs to another class.
        AgentLoopWorker.__init__(self, *args, **kwargs)
        tq.init()
        self.background_tasks: set[Any] = set()
        self._spared = False

    async def generate_sequences(self, batch: TensorDict) -> None:
        refuse_to_go_on_without_replicas()
        if not self._spared:
            self.llm_client, self._spared = await spared_the_balancer(self.llm_client), True
        await super().generate_sequences(batch)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, agent_name: str, **kwargs: Any
    ) -> Any:
        trace = kwargs.pop("trace", True)
        if trace or _agent_loop_registry.get(agent_name) != OURS:
            return await super()._run_agent_loop(
                sampling_params, trajectory, agent_name=agent_name, trace=trace, **kwargs
            )
        # As verl does it, without Hydra, which takes two milliseconds of a core to make a loop for a trajectory.
        loop = MetaActionAgentLoop(
            trainer_config=DictConfigWrap(config=self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            tools=ToolListWrap(self.tools),
        )
        output = await loop.run(sampling_params, **kwargs)
        return await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    def _trains_with_pixels_put_back(self) -> bool:
        """Whether the run's workers are `cinema_verl.training.worker`'s, which the trainers of this package choose."""
        return self.config.trainer.v1.trainer_mode in TRAINERS

    def _compute_multi_modal_inputs(self, output: Any, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        media = output.multi_modal_data or {}
        images = media.get("images")
        if not isinstance(images, SharedImages) or media.get("videos") or media.get("audios"):
            return super()._compute_multi_modal_inputs(output, input_ids)
        if images.features is None:
            images.features = super()._compute_multi_modal_inputs(output, input_ids)
        # verl takes `mm_token_type_ids` out of the dictionary, and makes it anew from the sequence at hand.
        key = media.get(STORED_AS)
        return dict(images.features) if key is None else images.store_once(key)

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        # verl stores these keyword arguments as columns next: what an evaluation knew beforehand
        # (`CinemaDataset.answers`) has been used by the agent loop, and belongs neither there nor with the reward.
        kwargs.pop("answers", None)
        if self.reward_loop_worker_handles == []:  # reward.num_workers=0
            self.reward_loop_worker_handles = [scorer_here(self.config)]
        await super()._compute_score(outputs, kwargs=kwargs)
        last = outputs[-1]
        if len(outputs) == 1 and last.multi_modal_data and self._trains_with_pixels_put_back():
            # Next verl computes what it stores, under this key.
            last.multi_modal_data[STORED_AS] = f"{kwargs['uid']}_{kwargs['session_id']}_0"
        info = last.extra_fields.get("reward_extra_info")
        if info is not None:  # a colocated reward model scores later
            info["data_source"] = str(kwargs.get("data_source") or "unknown")
            info["ability"] = str(kwargs.get("ability") or "unknown")
            info["response_tokens"] = float(sum(last.response_mask))  # an empty response has one token, masked out
            info["stop_reason"] = last.extra_fields.get("stop_reason", StopReason.UNKNOWN.value)


class SharingAgentLoopManager(AgentLoopManagerTQ):
    """Chosen by `actor_rollout_ref.rollout.agent.agent_loop_manager_class`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SharingAgentLoopWorker)
