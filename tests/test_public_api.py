"""What `from cinema_verl import …` gives: lazily, typed, without torch, whatever was imported before."""

import subprocess
import sys

import pytest

import cinema_verl

NAMES = ("AnnealingSchedule", "compute_score", "group_rewards", "parse", "verify")


def test_every_public_name_is_there_and_listed():
    assert set(NAMES) == set(cinema_verl.__all__) - {"__version__"}
    assert set(cinema_verl.__all__) <= set(dir(cinema_verl))
    for name in NAMES:
        assert callable(getattr(cinema_verl, name))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cinema_verl.no_such_name


def test_they_are_the_objects_of_their_modules():
    from cinema_verl import diversity, meta_action, reward, schedule

    assert cinema_verl.parse is meta_action.parse
    assert cinema_verl.compute_score is reward.compute_score
    assert cinema_verl.group_rewards is diversity.group_rewards
    assert cinema_verl.AnnealingSchedule is schedule.AnnealingSchedule


@pytest.mark.parametrize(
    "before", ["", "import cinema_verl.verify", "import cinema_verl.reward", "from cinema_verl.verify import verify"]
)
def test_verify_is_one_object_whatever_was_imported_before(before):
    """The module, which can be called; its own `verify` is the function."""
    program = (
        f"{before}\nfrom cinema_verl import verify\nimport cinema_verl.verify\n"
        "assert verify is cinema_verl.verify\n"
        "assert [verify('0.5', '1/2', 'number'), verify.verify('2', '1/2', 'number')] == [True, False]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_neither_the_package_nor_its_names_load_what_is_heavy():
    program = (
        "import sys, cinema_verl\nbare = set(sys.modules)\n"
        f"from cinema_verl import {', '.join(NAMES)}\n"
        "assert not {name for name in bare if name.startswith('cinema_verl.')}, bare\n"
        "assert not {'torch', 'verl', 'ray', 'transformers', 'httpx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
