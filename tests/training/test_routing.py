"""Routing: one replica a question, as many questions on each, the same ones in every run."""

import asyncio
import random
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.utils.import_utils import load_class_from_fqn
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from cinema_verl.training import routing
from cinema_verl.training.routing import GroupClient, GroupRouter, ReplicaDied, group_of, spared_the_balancer
from cinema_verl.utils.resolvers import package_path

SESSIONS = 8


def row(number, step=1):
    return {"extra_info": {"uid": f"q{number}", "index": number}, "data_source": "digits/sum", "global_steps": step}


def servers(count):
    return {f"10.0.0.{i}:8000": f"handle {i}" for i in range(count)}


def router(count):
    return GroupRouter(servers(count), {"router_class": "…"})


def arrive(balancer, ids):
    """All requests begin before the first ends; request -> server."""
    return {name: balancer.acquire_server(name)[0] for name in ids}


def ids(groups, sessions=SESSIONS, begins=""):
    return [f"{begins}{group_of(row(number))}-{session}" for number in range(groups) for session in range(sessions)]


def by_group(asked):
    found = defaultdict(set)
    for name, server in asked.items():
        found[name.rpartition("-")[0]].add(server)
    return found


@pytest.mark.parametrize("replicas", [2, 8])
@pytest.mark.parametrize("groups", [1, 7, 8, 128])
def test_each_question_is_on_one_replica_and_each_replica_has_as_many(replicas, groups):
    for seed in range(5):
        arriving = ids(groups)
        random.Random(seed).shuffle(arriving)
        asked = arrive(router(replicas), arriving)
        assert all(len(on) == 1 for on in by_group(asked).values())
        loads = Counter(next(iter(on)) for on in by_group(asked).values())
        counts = [loads[server] for server in servers(replicas)]
        assert max(counts) - min(counts) <= 1, "also when there are few"


def test_verls_balancer_sends_a_question_to_every_replica():
    """What the router is for; where this fails, verl has one of its own."""
    asked = arrive(GlobalRequestLoadBalancer(servers(8)), ids(128))
    assert sum(map(len, by_group(asked).values())) / 128 > 7
    loads = Counter(asked.values())
    assert set(loads.values()) == {128}


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=80))
def test_what_ends_is_forgotten_and_what_comes_back_is_known(steps):
    balancer, at_work, home = router(3), [], {}
    for number, ends in steps:
        if ends and at_work:
            name, server = at_work.pop(number % len(at_work))
            balancer.release_server(server, request_id=name)
        else:
            name = f"{group_of(row(number))}-{len(at_work)}"
            server, _ = balancer.acquire_server(name)
            assert home.setdefault(number, server) == server
            at_work.append((name, server))
        assert balancer.get_total_inflight() == len(at_work)
        groups = defaultdict(set)
        for name, server in at_work:
            groups[server].add(name.rpartition("-")[0])
        assert {server: set(on) for server, on in balancer._at_work.items() if on} == groups


def test_full_determinism_is_repeatable_whatever_the_order_and_the_process():
    arriving = ids(64, begins="det-")
    first = arrive(router(8), arriving)
    random.Random(0).shuffle(arriving)
    assert arrive(router(8), arriving) == first
    # The 16 digits are SHA-256's (`stable_hash`), so these are the same in every process.
    assert [sorted(servers(8)).index(first[f"det-{group_of(row(i))}-0"]) for i in range(6)] == [2, 0, 5, 0, 4, 3]
    assert set(first.values()) == set(servers(8))


def test_a_server_that_was_taken_away_is_asked_no_more():
    balancer = router(2)
    (name,) = ids(1, 1)
    server, _ = balancer.acquire_server(name)
    balancer.remove_servers([server])
    other, _ = balancer.acquire_server(name)
    assert other != server
    balancer.release_server(server, request_id=name)  # of a request that had begun there
    balancer.remove_servers([other])
    with pytest.raises(RuntimeError, match="No available servers in load balancer"):
        balancer.acquire_server(name)
    balancer.add_servers({"new": "handle"})
    assert balancer.acquire_server(name) == ("new", "handle")


def test_groups_are_known_by_their_row_and_step():
    assert group_of(row(1)) == group_of(row(1) | {"uid": "drawn anew in every run"})
    names = [row(1), row(2), row(1, step=2), row(1) | {"data_source": "digits/sum/shuffled"}]
    assert len({group_of(name) for name in names}) == 4
    unnamed = {"global_steps": 1, "extra_info": {}}
    assert group_of(unnamed | {"uid": "a"}) != group_of(unnamed | {"uid": "b"})


def test_verl_finds_the_router_where_the_recipe_says():
    options = OmegaConf.to_container(OmegaConf.load(package_path("training/router.yaml")))
    cls = load_class_from_fqn(options["router_class"])
    assert cls is GroupRouter
    cls(servers(1), options)
    with pytest.raises(ValueError, match="max_load"):
        cls(servers(1), options | {"max_load": 3})


def test_a_recipe_that_names_no_other_uses_it():
    text = Path(package_path("recipes/recipe/cinema.yaml")).read_text(encoding="utf-8")
    assert OmegaConf.create(text).actor_rollout_ref.rollout._get_node("router_config_path")._value() == (
        "${cinema_package:training/router.yaml}"
    )


# ---- verl's client, with the router and servers in this process ------------------------------------------------


class Remote:
    """A method of an actor handle."""

    def __init__(self, function):
        self.function = function

    async def remote(self, **given):
        return self.function(**given)


class Server:
    def __init__(self, answers=None):
        self.asked, self.answers = [], answers
        self.generate = Remote(self._generate)

    def _generate(self, request_id, **given):
        self.asked.append((request_id, tuple(given["prompt_ids"])))
        if self.answers is not None:
            raise self.answers
        return SimpleNamespace(extra_fields={})


def client(balancer, *, deterministic):
    rollout = SimpleNamespace(name="vllm", full_determinism=deterministic)
    names = ("acquire_server", "require_acquire_fields", "require_release_fields", "get_all_servers")
    handle = SimpleNamespace(**{name: Remote(getattr(balancer, name)) for name in names})
    handle.release_server = SimpleNamespace(remote=balancer.release_server)
    return LLMServerClient(SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout)), handle)


async def roll_out(given, groups, *, begins):
    """Every session of every group, as the agent loops ask."""
    sessions = [
        GroupClient(given, group_of(row(number)), session).generate(
            request_id=f"{begins}{number}{session}", prompt_ids=[number], sampling_params={}, image_data=None
        )
        for number in range(groups)
        for session in range(SESSIONS)
    ]
    await asyncio.gather(*sessions)


@pytest.mark.parametrize("deterministic", [False, True])
def test_through_verls_client_two_replicas_share_the_questions(deterministic):
    replicas = {"a": Server(), "b": Server()}
    balancer = GroupRouter(replicas, {})
    # As verl's agent loop begins its ids.
    asyncio.run(
        roll_out(client(balancer, deterministic=deterministic), 16, begins="det-" if deterministic else "random")
    )
    seen = {name: {prompt for _, prompt in server.asked} for name, server in replicas.items()}
    assert not seen["a"] & seen["b"]
    assert len(seen["a"] | seen["b"]) == 16
    if not deterministic:
        assert len(seen["a"]) == len(seen["b"]) == 8
    asked = [name for server in replicas.values() for name, _ in server.asked]
    assert len(set(asked)) == 16 * SESSIONS, "vLLM refuses an id that it has"
    assert balancer.get_total_inflight() == 0


def test_a_replica_that_dies_is_named_and_nothing_more_is_generated(monkeypatch):
    monkeypatch.setattr(routing, "_LOST", [])
    routing.refuse_to_go_on_without_replicas()
    gone = ray.exceptions.ActorDiedError()
    balancer = GroupRouter({"a": Server(answers=gone)}, {})
    with pytest.raises(ReplicaDied):
        asyncio.run(roll_out(client(balancer, deterministic=False), 1, begins=""))
    with pytest.raises(ReplicaDied, match="The last checkpoint is intact"):
        routing.refuse_to_go_on_without_replicas()
    assert balancer.get_total_inflight() == 0


def test_where_there_is_one_replica_the_balancer_is_asked_once():
    only = Server()
    balancer = GroupRouter({"a": only}, {})
    acquired = []
    acquire = balancer.acquire_server
    balancer.acquire_server = lambda request_id: acquired.append(request_id) or acquire(request_id)

    async def two_steps():
        given = await spared_the_balancer(client(balancer, deterministic=False))
        await given.generate("the first", prompt_ids=[0], sampling_params={})
        await roll_out(given, 16, begins="")

    asyncio.run(two_steps())
    assert len(acquired) == 1
    assert len(only.asked) == 1 + 16 * SESSIONS


def test_the_balancer_keeps_its_say_over_several_replicas_and_over_those_that_come_and_go():
    several = client(GroupRouter({"a": Server(), "b": Server()}, {}), deterministic=False)
    elastic = FullyAsyncLLMServerClient(several.config, several._load_balancer)
    assert asyncio.run(spared_the_balancer(several)) is several
    assert asyncio.run(spared_the_balancer(elastic)) is elastic
