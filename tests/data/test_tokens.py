"""Token counts from sizes alone equal what verl, qwen_vl_utils and the processor make of the pixels."""

from types import SimpleNamespace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cinema_verl.data.families import names
from cinema_verl.data.tokens import (
    MAX_ASPECT_RATIO,
    ImageSizeError,
    Patching,
    PromptCounter,
    vision_tokens,
)
from cinema_verl.demo.tiny_model import build_processor, build_tokenizer  # makes torchvision importable

# isort: split
from qwen_vl_utils import process_vision_info
from qwen_vl_utils.vision_process import smart_resize as fetch_resize
from transformers import (
    Glm4vImageProcessor,
    Glm46VImageProcessor,
    Idefics3ImageProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as processor_resize
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

# The released image processors (their preprocessor_config.json), and one that allows an image of one token.
QWEN2_5_VL = {"patch_size": 14, "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}}
QWEN3_VL = {"patch_size": 16, "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}
SMALL = {"patch_size": 14, "size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}}
QWEN_PROCESSORS = [Qwen2VLImageProcessor(**settings) for settings in (QWEN2_5_VL, QWEN3_VL, SMALL)]
# GLM-4V's defaults, and limits that are reached from both sides (one of them odd).
GLM_PROCESSORS = [
    Glm4vImageProcessor(),
    Glm46VImageProcessor(),
    Glm4vImageProcessor(size={"shortest_edge": 2 * 28 * 28 * 9, "longest_edge": 2 * 28 * 28 * 20 + 1}),
]
SMALL_32 = Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 1024, "longest_edge": 16_777_216})
PROCESSORS = QWEN_PROCESSORS + GLM_PROCESSORS

limits = st.one_of(
    st.none(), st.tuples(st.integers(1, 40_000), st.integers(0, 400_000)).map(lambda p: (p[0], p[0] + p[1]))
)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_families_share_one_image_processor(family):
    """What is compared with below is what transformers loads for both."""
    assert Qwen2VLImageProcessor.__name__ in IMAGE_PROCESSOR_MAPPING_NAMES[family].values()


def _cell(size_limits):
    return {} if size_limits is None else {"min_pixels": size_limits[0], "max_pixels": size_limits[1]}


def _from_pixels(width, height, processor, cell):
    """The tokens of an image on verl's way: fetched with the row's limits, then processed with the processor's."""
    message = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (width, height)), **cell}]}
    images, _ = process_vision_info([message], image_patch_size=processor.patch_size, return_video_metadata=True)
    grid = processor(images=images, return_tensors="pt")["image_grid_thw"]
    return int(grid.prod()) // processor.merge_size**2


@settings(max_examples=60, deadline=None)
@given(st.integers(28, 900), st.integers(28, 900), st.sampled_from(PROCESSORS), limits)
@example(28, 28, PROCESSORS[2], (784, 784))
@example(640, 480, PROCESSORS[0], None)
@example(29, 5800, PROCESSORS[0], None)  # ratio 200 in the file, over 200 once fetched
@example(28, 5600, PROCESSORS[2], (784, 784 * 4))  # nothing is left of the short side
def test_count_is_that_of_the_real_processor(width, height, processor, size_limits):
    cell = _cell(size_limits)
    try:
        expected = _from_pixels(width, height, processor, cell)
    except ValueError:
        with pytest.raises(ImageSizeError):
            vision_tokens(width, height, Patching.of(processor), **cell)
    else:
        assert vision_tokens(width, height, Patching.of(processor), **cell) == expected


@settings(max_examples=1000, deadline=None)
@given(st.integers(28, 20_000), st.integers(28, 20_000), st.sampled_from(QWEN_PROCESSORS), limits)
def test_count_is_that_of_the_two_resizes_at_any_size(width, height, processor, size_limits):
    assume(max(width, height) / min(width, height) < 100)
    patching, cell = Patching.of(processor), _cell(size_limits)
    fetched = fetch_resize(height, width, factor=processor.patch_size * 2, **cell)
    assume(0 not in fetched and max(fetched) / min(fetched) <= MAX_ASPECT_RATIO)
    seen = processor_resize(*fetched, patching.factor, patching.min_pixels, patching.max_pixels)
    count = vision_tokens(width, height, patching, **cell)
    assert count == seen[0] * seen[1] // patching.factor**2
    assert count == vision_tokens(height, width, patching, **cell), "rotation must not matter"


@pytest.mark.parametrize(
    ("size", "cell", "says"),
    [
        ((30, 30 * MAX_ASPECT_RATIO + 1), {}, "an aspect ratio over 200"),
        ((5800, 29), {}, "an aspect ratio over 200"),
        ((28, 5600), {"max_pixels": 3136}, "leaves nothing of a side"),
        ((100, 100), {"max_pixels": 784}, "min_pixels 3136 is over max_pixels 784"),
    ],
)
def test_sizes_that_cannot_be_counted_are_named(size, cell, says):
    with pytest.raises(ImageSizeError, match=says):
        vision_tokens(*size, Patching.of(PROCESSORS[0]), **cell)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"min_pixels": 784 * 9, "max_pixels": 784 * 20},
        {"max_pixels": 784 * 20},  # alone it changes nothing
        {"size": {"shortest_edge": 784, "longest_edge": 784 * 6}},
    ],
)
def test_processor_kwargs_of_the_run_count(overrides):
    processor = PROCESSORS[0]
    grid = processor(images=[Image.new("RGB", (280, 196))], **overrides)["image_grid_thw"]
    assert vision_tokens(280, 196, Patching.of(processor, overrides)) == int(grid.prod()) // 4


def test_an_image_of_glm_is_a_clip_of_two_frames():
    """By hand: 560x560 px is 400 tokens; two frames of it are 627,200 px, and a limit of 313,600 leaves 14x14."""
    assert vision_tokens(560, 560, Patching.of(Glm4vImageProcessor())) == 400
    half = Glm4vImageProcessor(size={"shortest_edge": 12_544, "longest_edge": 313_600})
    assert vision_tokens(560, 560, Patching.of(half)) == 14 * 14


def test_limits_by_qwens_names_do_not_count_for_glm():
    processor, overrides = Glm4vImageProcessor(), {"min_pixels": 784, "max_pixels": 784 * 4}
    assert Patching.of(processor, overrides) == Patching.of(processor)


class LooksLikeQwen:
    """Every attribute that is read, and resizing of its own."""

    patch_size, merge_size, temporal_patch_size, do_resize = 14, 2, 2, True

    def __init__(self):
        self.size = {"shortest_edge": 784, "longest_edge": 784 * 16}


@pytest.mark.parametrize("processor", [LooksLikeQwen(), Idefics3ImageProcessor(), None])
def test_a_class_that_is_not_known_is_refused_whatever_its_attributes(processor):
    with pytest.raises(TypeError) as error:
        Patching.of(processor)
    assert type(processor).__name__ in str(error.value)
    assert names() in str(error.value)
    assert "cinema_checks" not in str(error.value), "switching the check off only moves the failure"


def test_a_processor_that_does_not_resize_is_refused():
    with pytest.raises(TypeError, match="do_resize"):
        Patching.of(Qwen2VLImageProcessor(do_resize=False))


def test_a_small_picture_is_not_called_thin():
    """31x40 px with the limit of one 28-pixel token, read for a model of 32-pixel tokens."""
    with pytest.raises(ImageSizeError, match="32 px a side") as error:
        vision_tokens(31, 40, Patching.of(QWEN_PROCESSORS[1]), min_pixels=784, max_pixels=784)
    assert "very thin" not in str(error.value)
    assert "1322" in str(error.value)
    assert vision_tokens(31, 40, Patching.of(SMALL_32), min_pixels=784, max_pixels=1322) == 1


# --- Whole prompts ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processor():
    return build_processor(build_tokenizer())


words = st.text(alphabet=st.sampled_from("ab Ωé日\n<>/?,.01"), max_size=30)
pictures = st.lists(st.tuples(st.integers(28, 200), st.integers(28, 200)), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(sizes=pictures, data=st.data())
def test_prompt_is_as_long_as_the_one_verl_builds(processor, sizes, data):
    """Against the very builder that verl's agent loop calls, fed by verl's own data set methods."""
    cell = {"min_pixels": 784, "max_pixels": 784 * 8}
    content = data.draw(words) + "".join("<image>" + data.draw(words) for _ in sizes)
    prompt = [{"role": "system", "content": data.draw(words)}, {"role": "user", "content": content}]
    row = {
        "prompt": [dict(message) for message in prompt],
        "images": [{"image": Image.new("RGB", size), **cell} for size in sizes],
    }
    data_set = SimpleNamespace(processor=processor, image_key="images", video_key="videos", audio_key="audios")
    messages = RLHFDataset._build_messages(data_set, row, "prompt")
    images, _, _ = RLHFDataset._process_multi_modal_info(messages, image_patch_size=14, config={})
    builder = create_continuous_token_builder(processor.tokenizer, hf_model_type="qwen2_5_vl", processor=processor)
    expected = len(builder.build_initial_tokens(messages, images=images))

    counter = PromptCounter(processor)
    (text_tokens,) = counter.text_tokens([counter.render(prompt)])
    assert text_tokens + sum(vision_tokens(*size, counter.patching, **cell) for size in sizes) == expected


def test_no_prompts_have_no_counts(processor):
    assert PromptCounter(processor).text_tokens([]) == []


def test_a_model_without_a_processor_is_refused():
    with pytest.raises(TypeError, match="NoneType cuts images"):
        PromptCounter(None)
