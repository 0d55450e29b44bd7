"""docs/data.md is followed here as a user follows it, on made-up data; and its tables say what the code says."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cinema_verl.checks import gallery
from cinema_verl.data import sources
from cinema_verl.data.canonical import REASONS, Question
from cinema_verl.data.faults import CODES, WARNINGS
from cinema_verl.data.schema import RL_SCHEMA, SFT_SCHEMA
from cinema_verl.prepare.sources import adapter
from cinema_verl.registration.command_line import RL_TRAINER

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = 220  # questions of the user's own; enough for a batch of recipe cinema, and that some are held out
MIXED = 210  # of them in the mix, where the page has the paper's number
HELD_OUT = "0.3"  # of which some must be for validation, where the page's share suits the paper's number


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    return [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder in which everything on the page but the training has been done, and what each command printed."""
    folder = tmp_path_factory.mktemp("user")
    rows = [json.loads(line) for line in blocks("json")[0].splitlines()]
    for i in range(ROWS - len(rows)):
        images = [f"more/{i}-{j}.jpg" for j in range(2)]
        rows.append({**rows[0], "images": images, "answer": rows[0]["options"][i % 2]})
    rows.append({**rows[1], "answer": "It is hard to say in a few words how many windows there are in this house."})
    media = [path for row in rows for path in row.get("images", [row.get("image")])]
    for seed, path in enumerate(dict.fromkeys(media)):
        picture(folder / "mine" / path, seed)
    (folder / "mine" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # A benchmark of two rows, one of which shows a picture of the user's.
    shown = [media[0], "theirs.jpg"]
    picture(folder / "downloads" / "muirbench" / shown[1], 999)
    (folder / "downloads" / "muirbench" / shown[0]).parent.mkdir(parents=True)
    (folder / "downloads" / "muirbench" / shown[0]).write_bytes((folder / "mine" / shown[0]).read_bytes())
    with open(folder / "downloads" / "muirbench" / "test.jsonl", "w") as file:
        for number, path in enumerate(shown):
            row = {**adapter("muirbench").example, "idx": number, "question": "Which? <image>", "image_list": [path]}
            file.write(json.dumps({**row, "options": ["this", "that"]}) + "\n")
    (folder / "mix.yaml").write_text(blocks("yaml")[0].replace("size: 58000", f"size: {MIXED}"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = {}
    for command in commands():
        if RL_TRAINER in command:
            continue
        command = [HELD_OUT if part == "0.02" else part for part in command]
        if "preflight" in command:  # the recipe is for a node of eight GPUs, which this machine is not
            command.append("--other-machine")
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        printed[" ".join(command[1:3]) if command[1] == "prepare" else command[1]] = done.stdout
    return folder, printed


def test_following_the_page(followed):
    folder, printed = followed
    assert f"{ROWS + 1} rows = {ROWS} questions + 1 rejected" in printed["prepare own"]
    assert f"{ROWS} questions read, {ROWS - 1} stay" in printed["decontaminate"]
    assert "The run would get through its data." in printed["preflight"]
    assert f"{ROWS - 1} questions read = {MIXED} in the mix" in printed["mix"]
    assert (folder / "rows.html").read_text().count("<article") == gallery.SHOWN < MIXED
    tables = [pq.read_table(path) for path in sorted((folder / "data" / "rl").glob("*.parquet"))]
    assert [table.schema.remove_metadata() for table in tables] == [RL_SCHEMA] * 2
    assert sum(table.num_rows for table in tables) == MIXED


def test_the_training_command_is_what_preflight_looked_at():
    (looked_at,) = (command[2:] for command in commands() if command[:2] == ["cinema-verl", "preflight"])
    (trained,) = (command[3:] for command in commands() if RL_TRAINER in command)
    assert looked_at == [*trained, "--gallery", "rows.html"]


@pytest.mark.slow
def test_the_parquet_trains(followed):
    """One step of the CPU recipe over the page's own parquet, whose prompts and pictures are larger than digits."""
    folder, _ = followed
    files = [
        argument for command in commands() if RL_TRAINER in command for argument in command if "_files=" in argument
    ]
    settings = [
        "data.max_prompt_length=2000",
        "data.val_batch_size=4",
        "cinema.exploration_steps=1",
        "cinema.annealing_steps=0",
    ]
    settings += ["algorithm.filter_groups.enable=false", "trainer.val_before_train=false", "trainer.save_freq=-1"]
    command = [sys.executable, "-m", RL_TRAINER, "+recipe=cinema_cpu", *files, *settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "step:1 " in done.stdout


def test_the_python_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("first.jpg", "second.jpg")):
        picture(Path(name), seed)
    (block,) = blocks("python")
    exec(compile(block, "docs/data.md", "exec"), {})
    assert pq.read_table("train.parquet").schema.remove_metadata() == RL_SCHEMA


def table(heading: str) -> list[tuple[str, ...]]:
    """The cells of the first table under a heading or a sentence."""
    lines = PAGE[PAGE.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
    return rows


@pytest.mark.parametrize(
    ("heading", "kind"), [("## Sources", sources.TRAIN), ("Benchmarks, for evaluation", sources.BENCHMARK)]
)
def test_every_source_is_listed_as_its_adapter_says(heading, kind):
    names = [name for name, found in sources.SHIPPED.items() if found == kind]
    expected = [(f"`{name}`", adapter(name).summary, adapter(name).license) for name in names]
    assert table(heading) == expected


def test_every_reason_is_listed_as_the_code_says():
    assert table("## Reasons") == [(f"`{reason}`", meaning) for reason, meaning in REASONS.items()]


def test_every_fault_is_listed_as_the_code_says():
    said = {code: meaning + " (warning)" * (code in WARNINGS) for code, meaning in CODES.items()}
    assert table("## Faults") == [(f"`{code}`", meaning) for code, meaning in said.items()]


def test_every_field_and_column_is_listed():
    listed = re.findall(r"`(\w+)`", " ".join(cells[0] for cells in table("## The canonical question")))
    assert sorted(listed) == sorted(field.name for field in fields(Question))
    columns = dict(table("**RL** (`RL_SCHEMA`)"))
    assert list(columns) == [f"`{field.name}`" for field in RL_SCHEMA]
    info = [name.strip("* ") for name in columns["`extra_info`"].split(",")]
    assert info == [field.name for field in RL_SCHEMA.field("extra_info").type]
    sft = PAGE[PAGE.index("**SFT** (`SFT_SCHEMA`)") :].split("\n\n")[0]
    assert all(f"`{field.name}`" in sft for field in SFT_SCHEMA)
