"""Which rollout server answers a question: the same one for all G sessions of a group.

verl gives each session a random request id, and its balancer sends each request to the server that has the fewest. The
sessions of a group then meet on as many servers as there are, and each of those decodes the images, encodes them and
fills its cache with the prompt anew. Here a request id names the group (`GroupClient`, around verl's client in the
agent loop: no configuration reaches the id), and a router of verl's own kind (`rollout.router_config_path`) looks at
the group alone (`GroupRouter`). What a server has cached of the prompt then serves the other sessions.

A group is known by its row of the data and not by the random `uid` that verl draws for it, so that a run that is
repeated asks for the same.
"""

from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import ray
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from cinema_verl.training.shared_vision import SharedImages
from cinema_verl.utils.stable_random import stable_hash

REPEATABLE = "det-"
"""With which verl begins the request ids of a run with `rollout.full_determinism`."""


class ReplicaDied(RuntimeError):
    """A rollout server is gone: what it was generating is lost, and weights cannot be sent to it any more."""


def group_of(row: Mapping[str, Any]) -> str:
    """The name of a row's group at a step: 16 hexadecimal digits, the same in every process and run.

    Args:
        row: what an agent loop is given: `extra_info` with `uid` and `index`, `data_source`, `global_steps`. A row that
            is named by neither is known by the `uid` that verl drew for it.
    """
    info = row.get("extra_info") or {}
    names = info.get("uid"), info.get("index")
    if names == (None, None):
        names = row.get("uid"), None
    return f"{stable_hash(row.get('global_steps'), row.get('data_source'), *names):016x}"


class GroupClient:
    """verl's `LLMServerClient`, whose requests name their group.

    Args:
        client: what verl gave the agent loop.
        group, session: of the trajectory (`group_of`, `session_id`).
    """

    def __init__(self, client: Any, group: str, session: int):
        self.client, self.group, self.session = client, group, session

    async def generate(self, request_id: str, **request: Any) -> TokenOutput:
        """verl's `generate`; the id names the group, is the trajectory's own, and begins as verl's does.

        Raises:
            ReplicaDied: the server that was asked is gone.
        """
        images = request.get("image_data")
        if isinstance(images, SharedImages):
            request["image_data"] = images.to_send()
        beginning = REPEATABLE if request_id.startswith(REPEATABLE) else ""
        try:
            return await self.client.generate(request_id=f"{beginning}{self.group}-{self.session}", **request)
        except ray.exceptions.RayActorError as error:
            _LOST.append(f"{error}".strip())
            raise ReplicaDied(_LOST[-1]) from error


async def spared_the_balancer(client: Any) -> Any:
    """The client of a worker of agent loops, or a quicker one where servers do not change and there is one.

    A call to the balancer before and after each trajectory is a millisecond of a core on either side.
    """
    if type(client) is not LLMServerClient:  # with asynchronous training servers come and go
        return client
    balancer = client._load_balancer
    if len(await balancer.get_all_servers.remote()) != 1:
        return client
    only = SimpleNamespace(
        acquire_server=_answering(await balancer.acquire_server.remote(request_id="all")),
        require_acquire_fields=_answering([]),
        require_release_fields=_answering([]),
        release_server=SimpleNamespace(remote=lambda **_: None),  # it stays acquired
    )
    quicker = LLMServerClient(client.config, only)
    quicker.__dict__ |= {name: value for name, value in client.__dict__.items() if name not in quicker.__dict__}
    return quicker


def _answering(value: Any) -> SimpleNamespace:
    """Stands for an actor's method that always answers the same."""

    async def remote(**_: Any) -> Any:
        return value

    return SimpleNamespace(remote=remote)


_LOST: list[str] = []
"""What this process, a worker of agent loops, was told of servers that had died."""


def refuse_to_go_on_without_replicas() -> None:
    """To be called before more is generated.

    Raises:
        ReplicaDied: a server that this process asked has died. What it had begun counts as failed and would be asked
            for again, and most of that would be sent to the server that does nothing.
    """
    if _LOST:
        raise ReplicaDied(
            f"a rollout server died while it generated, and a run cannot go on without it: {_LOST[0]}\nThe last "
            "checkpoint is intact, and the same command goes on from it. What ended the server is in its log (in Ray's "
            "folder of logs, on its node); often it is memory: lower actor_rollout_ref.rollout.gpu_memory_utilization "
            "or max_num_seqs"
        )


class GroupRouter(GlobalRequestLoadBalancer):
    """verl's balancer, for groups: the first request of a group chooses a server, and the others follow it.

    That is the server with the fewest groups at work, then with the fewest requests, then the least often chosen. With
    `rollout.full_determinism` it is a function of the group's name and the number of servers alone: the order in which
    requests arrive differs from run to run.

    Args:
        servers: address -> handle.
        options: of the YAML file that names this class; there are none.
    """

    def __init__(self, servers: Mapping[str, Any], options: Mapping[str, Any]):
        if unknown := sorted(options.keys() - {"router_class"}):
            raise ValueError(f"unknown options of {type(self).__name__}: {', '.join(unknown)}")
        super().__init__(dict(servers))
        self._at_work: dict[str, Counter[str]] = {}  # server -> group -> requests in flight
        self._chosen: Counter[str] = Counter()

    def acquire_server(self, request_id: str) -> tuple[str, Any]:
        group = _group_in(request_id)
        server = self._request_id_to_server.get(group)
        if server not in self._inflight_requests:
            server = self._choose(group, repeatable=request_id.startswith(REPEATABLE))
            self._request_id_to_server[group] = server
        self._inflight_requests[server] += 1
        self._at_work.setdefault(server, Counter())[group] += 1
        return server, self._servers[server]

    def _choose(self, group: str, *, repeatable: bool) -> str:
        if not self._inflight_requests:
            raise RuntimeError("No available servers in load balancer")  # verl's clients know this text
        if repeatable:
            return sorted(self._inflight_requests)[int(group, 16) % len(self._inflight_requests)]
        server = min(self._inflight_requests, key=self._load)
        self._chosen[server] += 1
        return server

    def _load(self, server: str) -> tuple[int, int, int]:
        return len(self._at_work.get(server, ())), self._inflight_requests[server], self._chosen[server]

    def release_server(self, server_id: str, request_id: str | None = None) -> None:
        super().release_server(server_id)
        groups, group = self._at_work.get(server_id, Counter()), _group_in(request_id or "")
        groups[group] -= 1
        if groups[group] <= 0:
            del groups[group]

    def require_release_fields(self) -> list[str]:
        return ["request_id"]

    def remove_servers(self, server_ids: list[str]) -> None:
        super().remove_servers(server_ids)
        for server in server_ids:
            self._at_work.pop(server, None)


def _group_in(request_id: str) -> str:
    return request_id.removeprefix(REPEATABLE).rpartition("-")[0] or request_id
