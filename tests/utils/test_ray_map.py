"""The same results here, by Ray on this machine, and by a cluster of several nodes."""

import os
import signal
from functools import partial

import pytest

from cinema_verl.utils.ray_map import ClusterFailed, spread


def square(item):
    return {"number": item["number"], "square": item["number"] ** 2, "process": os.getpid()}


def fail(item):
    raise LookupError(f"item {item['number']}")


def die_once(item, *, trace):
    """Kills its worker the first time that it gets number 3."""
    if item["number"] == 3 and not trace.exists():
        trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(item)


ITEMS = [{"number": number} for number in range(12)]


def test_without_workers_items_are_done_here_in_their_order():
    results = list(spread(square, ITEMS, workers=0))
    assert [result["square"] for result in results] == [number**2 for number in range(12)]
    assert {result["process"] for result in results} == {os.getpid()}


def test_one_item_is_not_worth_a_start_of_ray():
    assert [result["process"] for result in spread(square, ITEMS[:1], workers=2)] == [os.getpid()]


def test_results_come_one_by_one():
    done = []

    def work(item):
        done.append(item["number"])
        return item

    next(spread(work, ITEMS, workers=0))
    assert done == [0]


def test_nothing_to_do():
    assert list(spread(square, [], workers=2)) == []


def test_workers_give_the_same_results(ray_here):
    results = sorted(spread(square, ITEMS, workers=2), key=lambda result: result["number"])
    assert [result["square"] for result in results] == [number**2 for number in range(12)]
    assert os.getpid() not in {result["process"] for result in results}


def test_what_the_work_raises_ends_it(ray_here):
    with pytest.raises(LookupError, match="item 0"):
        list(spread(fail, ITEMS, workers=0))
    with pytest.raises(RuntimeError, match="LookupError: item"):
        list(spread(fail, ITEMS, workers=2))


def test_the_item_of_a_worker_that_was_killed_is_done_by_another(ray_here, tmp_path):
    results = list(spread(partial(die_once, trace=tmp_path / "died"), ITEMS, workers=2))
    assert sorted(result["number"] for result in results) == list(range(12))
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_named(address):
    with pytest.raises(ClusterFailed, match=f"no Ray at {address} .* HOST:PORT"):
        list(spread(square, ITEMS, workers=0, ray_address=address))
