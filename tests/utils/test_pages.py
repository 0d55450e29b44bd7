import base64
import io
import json

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cinema_verl.utils.pages import json_for_script, render, thumbnail


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_what_a_page_shows_is_text(tmp_path, open_page):
    page_file = tmp_path / "page.html"
    page_file.write_text(render("base.html", title="</title><script>alert(1)</script>"), encoding="utf-8")
    with open_page(page_file) as page:
        assert page.title() == "</title><script>alert(1)</script>"
        assert page.problems == []


def test_a_page_loads_nothing(tmp_path, open_page):
    text = render("base.html", title="x").replace("<main>", '<main><img src="https://example.org/a.png">')
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    with open_page(tmp_path / "page.html") as page:
        assert any("Content Security Policy" in problem for problem in page.problems)


def test_a_value_that_the_template_misses_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render("base.html")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=8))
def test_json_for_script_is_the_same_value_and_ends_no_element(value):
    text = str(json_for_script(value))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_json_for_script_refuses_what_json_does_not_know():
    with pytest.raises(ValueError):
        json_for_script(float("nan"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_thumbnail_shrinks_every_kind_of_picture(tmp_path, mode):
    path = tmp_path / ("picture.tiff" if mode in ("CMYK", "I;16") else "picture.png")
    Image.new(mode, (400, 100)).save(path)
    small = picture(thumbnail(path))
    assert small.size == (160, 40)


def test_thumbnail_turns_a_picture_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (400, 100)).save(tmp_path / "p.jpg", exif=exif)
    assert picture(thumbnail(tmp_path / "p.jpg")).size == (40, 160)


def test_thumbnail_of_a_small_scan_keeps_its_pixels(tmp_path):
    scan = Image.effect_noise((28, 28), 80)
    scan.save(tmp_path / "scan.png")
    assert picture(thumbnail(tmp_path / "scan.png")).convert("L").tobytes() == scan.tobytes()


def test_thumbnail_of_no_picture_is_an_oserror(tmp_path):
    (tmp_path / "x.png").write_bytes(b"not a picture")
    with pytest.raises(OSError):
        thumbnail(tmp_path / "x.png")
