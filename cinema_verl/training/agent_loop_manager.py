"""verl's agent-loop manager whose workers process a question's images once (`cinema_verl.training.shared_vision`).

They also add to each score what verl's validation dumps do not have: where the question is from, how long the response
is, and how it ended. With `reward.num_workers=0` they score themselves, by verl's reward worker in their own process.
"""

import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl.experimental.agent_loop import AgentLoopWorker
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap, _agent_loop_registry
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils import tensordict_utils as tu

from cinema_verl.runs.stop_reason import StopReason
from cinema_verl.training.agent_loop import MetaActionAgentLoop
from cinema_verl.training.routing import refuse_to_go_on_without_replicas, spared_the_balancer
from cinema_verl.training.same_version import refuse_another_version
from cinema_verl.training.shared_vision import SharedImages, SharedPrompt
from cinema_verl.training.verdict import TRAINERS

STORED_AS: Final = "stored_as"
"""Beside a trajectory's media, which verl does not store: the key that it will have in the transfer queue."""

GROUP_SIZE: Final = "__rollout_n__"
"""Beside a question: how many trajectories verl's worker shall make of it."""
TEMPERATURE: Final = "__temperature__"
"""Beside a question: at which temperature."""

Row = tuple[str, dict[str, Any], dict[str, Any]]
"""A trajectory as the transfer queue has it: key, columns, tag."""

OURS: Final = {"_target_": f"{MetaActionAgentLoop.__module__}.{MetaActionAgentLoop.__qualname__}"}
"""As verl's registry has it."""


def scorer_here(config: Any) -> Any:
    """Answers in this process as the handle of a `RewardLoopWorker` does from another one."""
    worker = RewardLoopWorker(config)
    return SimpleNamespace(compute_score=SimpleNamespace(remote=worker.compute_score))


@asynccontextmanager
async def _stored_together(uid: str, partition_id: str) -> AsyncIterator[list[Row]]:
    """For what a session of a question stores: the last of them that ends puts all of it into the transfer queue.

    verl puts each trajectory by itself, which takes as long as eight together, here and in the queue's processes.
    Nothing is read before the question's last session has ended.
    """
    shared = SharedPrompt.of(uid)
    shared.sessions += 1
    try:
        yield shared.rows
    finally:
        shared.sessions -= 1
        if not shared.sessions:
            rows, shared.rows = shared.rows, []
            await _store(rows, partition_id)


async def _store(rows: Sequence[Row], partition_id: str) -> None:
    for columns in {tuple(fields) for _, fields, _ in rows}:  # a known response has no log-probabilities
        keys, fields, tags = zip(*(row for row in rows if tuple(row[1]) == columns), strict=True)
        await tq.async_kv_batch_put(
            keys=list(keys),
            fields=tu.list_of_dict_to_tensordict(list(fields)),
            tags=list(tags),
            partition_id=partition_id,
        )


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
        gc.collect()
        gc.freeze()  # what a search for cycles finds here again and again takes it 0.3 s each time

    async def generate_sequences(self, batch: TensorDict) -> None:
        refuse_to_go_on_without_replicas()
        if not self._spared:
            self.llm_client, self._spared = await spared_the_balancer(self.llm_client), True
        await super().generate_sequences(batch)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, agent_name: str, **kwargs: Any
    ) -> Any:
        trace = kwargs.pop("trace", True)
        if (temperature := kwargs.pop(TEMPERATURE, None)) is not None:
            sampling_params = sampling_params | {"temperature": temperature}
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
        async with _stored_together(kwargs["uid"], "val" if trajectory["validate"] else "train") as rows:
            output = await loop.run(sampling_params, **kwargs)
            rows.append(await self._row(output, trajectory["validate"], kwargs))

    async def _row(self, output: AgentLoopOutput, validate: bool, kwargs: dict[str, Any]) -> Row:
        """What verl's `_agent_loop_postprocess` stores of one trajectory."""
        await self._compute_score([output], kwargs=kwargs)
        await self._compute_teacher_logprobs(
            output,
            prompt_ids=output.prompt_ids,
            response_ids=output.response_ids,
            validate=validate,
            sample_kwargs=kwargs,
        )
        input_ids = torch.tensor([*output.prompt_ids, *output.response_ids])
        inputs = self._compute_multi_modal_inputs(output, input_ids)
        fields = output.as_dict() | kwargs
        fields.pop("multi_modal_data", None)
        fields |= {
            "loss_mask": fields["response_mask"],
            "input_ids": input_ids,
            "position_ids": self._compute_position_ids(input_ids[None], torch.ones_like(input_ids)[None], inputs)[0],
            "multi_modal_inputs": inputs,
        }
        tag = {
            "status": "success",
            "prompt_len": len(output.prompt_ids),
            "response_len": len(output.response_ids),
            "seq_len": len(input_ids),
            "global_steps": kwargs["global_steps"],
            **{key: output.extra_fields.get(key) for key in ("min_global_steps", "max_global_steps")},
        }
        return f"{kwargs['uid']}_{kwargs['session_id']}_0", fields, tag

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

    def generate_sequences(self, prompts: TensorDict) -> None:
        # The workers' configuration is a copy from the start; the trainer sets the stage's values in this one.
        if "validate" not in prompts:
            for name, value in ((GROUP_SIZE, self.rollout_config.n), (TEMPERATURE, self.rollout_config.temperature)):
                if name not in prompts:
                    tu.assign_non_tensor_data(prompts, name, value)
        super().generate_sequences(prompts)
