"""Files of a model are read without running, or offering to run, code that they bring."""

import ast
import json
from pathlib import Path

import pytest

import cinema_verl
from cinema_verl.utils.pretrained import read_files
from cinema_verl.utils.torchvision import ensure_torchvision_importable

PACKAGE = Path(cinema_verl.__file__).parent
AUTO = ("AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor", "AutoModel")


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_folder_is_an_error_and_no_question(tmp_path, monkeypatch, known):
    ensure_torchvision_importable()
    from transformers import AutoConfig, AutoProcessor

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    brought = {"auto_map": {"AutoConfig": "code.Config", "AutoProcessor": "code.Processor"}}
    config = {"model_type": "qwen2_5_vl" if known else "somebodys"} | brought
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "processor_config.json").write_text(json.dumps(brought))
    for auto in (AutoConfig, AutoProcessor):
        try:
            read_files(auto, tmp_path)
        except (ValueError, OSError):
            continue
        assert known, "the classes of transformers' own are used"


def test_nothing_is_read_in_another_way():
    files = [path for path in PACKAGE.rglob("*.py") if "recipes" not in path.parts]
    assert len(files) > 100
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or node.attr != "from_pretrained":
                continue
            if isinstance(node.value, ast.Name) and node.value.id.startswith(AUTO):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []
