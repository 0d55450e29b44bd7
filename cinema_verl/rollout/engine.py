"""A rollout engine made of transformers alone: batched, exact, and the same on CPU and CUDA.

It is for training where vLLM is not installed: `actor_rollout_ref.rollout.name=transformers`. Requests that arrive
together are decoded as one batch; weights are pushed by the training worker and checked to be complete. Registered by
name in verl's rollout registries (`cinema_verl.registration.hooks`).

Engine options (`actor_rollout_ref.rollout.engine_kwargs.transformers`):
    batch_window: seconds without a new request after which a batch starts (`cinema_verl.rollout.batching.WINDOW`).
"""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any

import ray
import torch
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.device import get_device_name, get_resource_name
from verl.utils.model import convert_weight_keys, get_hf_auto_model_class
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.config import HFModelConfig, RolloutConfig
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput
from verl.workers.rollout.utils import ensure_async_iterator, get_vision_placeholder_token_ids

from cinema_verl.rollout.batching import WINDOW, Batcher
from cinema_verl.rollout.generation import Completion, Policy, Request, generate
from cinema_verl.utils.pretrained import load_model

NAME = "transformers"
BEGUN = "begun"
"""Sampling parameter of a request that goes on with an interrupted response: `Request.begun`."""


def server_name(replica_rank: int) -> str:
    """Name of a replica's Ray actor, by which the training worker finds it."""
    return f"{NAME}_server_{replica_rank}"


class TransformersServer:
    """One model and one queue of requests (a Ray actor).

    Args:
        config: verl's rollout config (`actor_rollout_ref.rollout`).
        model_config: verl's model config (`actor_rollout_ref.model`).
    """

    def __init__(self, config: RolloutConfig, model_config: Any):
        self.config = config
        self.model_config: HFModelConfig = omega_conf_to_dataclass(model_config)
        options = dict((config.engine_kwargs or {}).get(NAME) or {})
        window = float(options.pop("batch_window", WINDOW))
        if options:
            raise ValueError(f"unknown rollout.engine_kwargs.{NAME} options: {sorted(options)}; known: batch_window")
        self.device = get_device_name()
        if self.device == "cpu":
            # Ray starts actors with OMP_NUM_THREADS=1; training and generation take turns on the cores.
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.policy = self._build_policy()
        # Live tensors under the names that verl's engine sends (`FSDPEngine.get_per_tensor_param`).
        model = self.policy.model
        self.parameters = convert_weight_keys(model.state_dict(), model)
        self.received: set[str] = set()
        self.global_steps: int | None = None
        self.batcher = Batcher(self._decode, self.config.max_num_seqs, window)
        # Asynchronous training interrupts what is being decoded, and lets nothing new in while weights come.
        self._interrupt = threading.Event()
        self._admission = asyncio.Condition()
        self._paused = self._rejects = self._updating = False
        gc.collect()
        gc.freeze()  # as `cinema_verl.training.agent_loop_manager` does

    def _decode(self, requests: Sequence[Request], watch: Callable[[int, Completion], object]) -> list[Completion]:
        return generate(self.policy, requests, watch, self._interrupt.is_set)

    def _build_policy(self) -> Policy:
        config = self.model_config
        model = load_model(
            get_hf_auto_model_class(config.hf_config),
            config.local_path,
            config=config.hf_config,
            dtype=PrecisionType.to_dtype(self.config.dtype),
            trust_remote_code=config.trust_remote_code,
        )
        tokenizer, processor = config.tokenizer, config.processor
        eos = config.generation_config.eos_token_id if config.generation_config is not None else None
        eos = [tokenizer.eos_token_id] if eos is None else eos if isinstance(eos, list) else [eos]
        return Policy(
            model=model.eval().to(self.device),
            processor=processor,
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            eos=frozenset() if self.config.ignore_eos else frozenset(eos),
            banned=tuple(get_vision_placeholder_token_ids(processor)),
            pad=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0],
            image_token=getattr(processor, "image_token_id", -1),
        )

    # ---- generation -------------------------------------------------------------------------------------------

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: list[Any] | None = None,
        video_data: list[Any] | None = None,
        audio_data: list[Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> TokenOutput:
        """Token-in-token-out generation, verl's rollout contract (`LLMServerClient.generate`).

        What is interrupted comes back with what there is of it, as "aborted". Its continuation is a request whose
        prompt ends with that, and whose `begun` in the sampling parameters says how many tokens that is.

        Raises:
            ValueError: for videos, audio or processor options, which this engine does not take, and for a prompt that
                leaves no room for a response.
        """
        if video_data or audio_data or mm_processor_kwargs:
            raise ValueError(
                "the transformers rollout engine takes images only (store video frames as images) and no "
                "mm_processor_kwargs; use rollout.name=vllm for those"
            )
        stop = sampling_params.get("stop") or ()
        room = self.config.prompt_length + self.config.response_length - len(prompt_ids)
        request = Request(
            prompt_ids=prompt_ids,
            images=image_data or (),
            max_tokens=min(sampling_params.get("max_tokens", self.config.response_length), room),
            temperature=sampling_params.get("temperature", 1.0),
            top_p=sampling_params.get("top_p", 1.0),
            top_k=sampling_params.get("top_k", -1),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=sampling_params.get("seed"),
            begun=sampling_params.get(BEGUN, 0),
        )
        admitted = await self._admitted()
        completion = await self.batcher(request) if admitted else Completion([], [], "aborted")
        return TokenOutput(
            token_ids=completion.token_ids,
            log_probs=completion.log_probs,
            stop_reason="completed" if completion.stop_reason == "stop" else completion.stop_reason,
            extra_fields={"global_steps": self.global_steps},
        )

    async def _admitted(self) -> bool:
        """Wait until generation goes on; False where it will not soon (verl: `abort_all_requests`)."""
        async with self._admission:
            await self._admission.wait_for(lambda: self._rejects or not (self._paused or self._updating))
            return not self._rejects

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Interrupt every request, and hold those that come later until `resume_generation`.

        Args:
            reject_request: those that come later, or wait already, are answered as "aborted" instead of being held.
        """
        async with self._admission:
            self._paused, self._rejects = True, reject_request
            self._admission.notify_all()
        self._interrupt.set()
        await self.batcher.drain()
        self._interrupt.clear()

    async def resume_generation(self) -> None:
        async with self._admission:
            self._paused = self._rejects = False
            self._admission.notify_all()

    # ---- weights ----------------------------------------------------------------------------------------------

    async def load_weights(self, bucket: list[tuple[str, torch.Tensor]], first: bool = True) -> None:
        """Copy a bucket of named weights into the model; the first bucket opens an update, `finish_weights` closes it.

        In between nothing is decoded: what is being decoded ends first, and what comes waits.

        Raises:
            KeyError: for a name that the model does not have.
            ValueError: for a shape that differs.
        """
        if first:  # weights of an update that broke off do not count for this one
            self.received, self._updating = set(), True
            await self.batcher.drain()
        for name, tensor in bucket:
            if name not in self.parameters:
                raise KeyError(f"the actor sent a weight that the rollout model does not have: {name}")
            target = self.parameters[name]
            if target.shape != tensor.shape:
                raise ValueError(f"weight {name}: the actor sent {tuple(tensor.shape)}, expected {tuple(target.shape)}")
            target.copy_(tensor)
            self.received.add(name)

    async def finish_weights(self, global_steps: int | None) -> None:
        """Close an update: every weight must have come.

        Raises:
            RuntimeError: naming the weights that did not; nothing is decoded until a whole update has come.
        """
        missing = sorted(self.parameters.keys() - self.received)
        self.received = set()
        if missing:
            raise RuntimeError(f"weight sync left {len(missing)} weights of the rollout model stale: {missing[:5]} …")
        if global_steps is not None:
            self.global_steps = global_steps
        async with self._admission:
            self._updating = False
            self._admission.notify_all()

    def named_weights(self) -> dict[str, torch.Tensor]:
        """A copy of the weights, for tests of the sync."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.parameters.items()}

    # ---- memory: a CUDA device is shared with the trainer, which uses it while the server sleeps ----------------

    async def sleep(self) -> None:
        # verl wakes the server up again only where `free_cache_engine` is on.
        if self.device != "cpu" and self.config.free_cache_engine:
            self._move("cpu")
            torch.cuda.empty_cache()

    async def wake_up(self, tags: list[str] | None = None) -> None:
        if self.device != "cpu":
            self._move(self.device)

    def _move(self, device: str) -> None:
        model = self.policy.model.to(device)
        self.parameters = convert_weight_keys(model.state_dict(), model)

    async def clear_kv_cache(self) -> None:
        """Caches live only as long as a batch."""

    async def release_kv_cache(self) -> None:
        """See `clear_kv_cache`."""

    async def resume_kv_cache(self) -> None:
        """See `clear_kv_cache`."""

    async def set_global_steps(self, global_steps: int) -> None:
        self.global_steps = global_steps


class TransformersReplica(RolloutReplica):
    """verl's handle on one server: one process, one device.

    Raises:
        ValueError: if the config asks for tensor, data or pipeline parallelism inside a replica.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.world_size != 1:
            raise ValueError(
                f"the transformers rollout engine runs one process a replica: set "
                f"actor_rollout_ref.rollout.tensor_model_parallel_size=1 (now {self.world_size} ranks a replica); "
                f"with N training ranks there are N replicas"
            )

    async def launch_servers(self) -> None:
        node_id, device = await self.workers[0].__ray_call__.remote(
            lambda worker: (
                ray.get_runtime_context().get_node_id(),
                ray.get_runtime_context().get_accelerator_ids()[get_resource_name()][0],
            )
        )
        server = (
            ray.remote(TransformersServer)
            .options(
                # On the node and the device of its training worker, which is the device's only user that Ray knows.
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False),
                runtime_env={
                    "env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": device}
                },
                name=server_name(self.replica_rank) + self.name_suffix,
                max_concurrency=self.max_concurrency,
            )
            .remote(config=self.config, model_config=self.model_config)
        )
        await server.clear_kv_cache.remote()  # returns when the model is loaded, raises what loading raised
        self.servers = [server]
        self._server_handle = server
        self._server_address = f"{node_id[:8]}:{server_name(self.replica_rank)}"


class ServerAdapter(BaseRollout):
    """The training worker's side of the engine: pushes weights to its replica (verl: `BaseRollout`)."""

    is_leader_rank = True  # of its replica, which has one process

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1):
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank
        self._server: Any = None

    @property
    def server(self) -> Any:
        if self._server is None:  # servers start after the training workers
            self._server = ray.get_actor(server_name(self.replica_rank))
        return self._server

    async def resume(self, tags: list[str]) -> None:
        await self.server.wake_up.remote(tags=tags)

    async def release(self) -> None:
        await self.server.sleep.remote()

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]] | AsyncIterable[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Send every weight in buckets of `checkpoint_engine.update_weights_bucket_megabytes`.

        Raises:
            NotImplementedError: for delta updates and unmerged LoRA adapters.
        """
        if wire_format != "named_tensors":
            raise NotImplementedError(f"the transformers rollout engine takes full tensors, not {wire_format!r}")
        if kwargs.get("peft_config") is not None:
            raise NotImplementedError(
                "the transformers rollout engine takes merged LoRA weights only: set "
                "actor_rollout_ref.model.lora.merge=true"
            )
        limit = self.config.checkpoint_engine.update_weights_bucket_megabytes << 20
        bucket: list[tuple[str, torch.Tensor]] = []
        size, first = 0, True
        async for name, tensor in ensure_async_iterator(weights):
            bucket.append((name, tensor.detach().cpu()))
            size += tensor.nbytes
            if size >= limit:
                await self.server.load_weights.remote(bucket, first)
                bucket, size, first = [], 0, False
        if bucket:
            await self.server.load_weights.remote(bucket, first)
        await self.server.finish_weights.remote(global_steps)
