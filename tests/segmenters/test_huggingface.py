"""Models of transformers: tiny ones, saved and loaded as people have them, against transformers' own processing."""

import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported: no test asks the network

import pytest
import torch
import transformers
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

import gandid
from gandid.errors import GandidError, UsageError
from gandid.runs import fingerprint
from gandid.segmenters import Segmenter
from gandid.segmenters.names import check_background, name_classes
from gandid.segmenters.preparation import Preparation

NAMES = ["wall", "floor, flooring", "chair", "painting, picture", "lamp"]
ID2LABEL = dict(enumerate(NAMES))
SWIN = dict(
    image_size=64,
    embed_dim=8,
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 2, 2],
    window_size=4,
    out_features=["stage1", "stage2", "stage3", "stage4"],
)
MASKED = dict(
    hidden_dim=32,
    encoder_feedforward_dim=16,
    encoder_layers=1,
    decoder_layers=2,
    num_attention_heads=2,
    dim_feedforward=16,
    num_queries=6,
    id2label=ID2LABEL,
)
VIT = dict(
    image_size=64,
    patch_size=16,
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=16,
    id2label=ID2LABEL,
)


def segformer(**more):
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        **({"id2label": ID2LABEL} | more),
    )
    return transformers.SegformerForSemanticSegmentation(config), SegformerImageProcessorPil(
        size=dict(height=64, width=64)
    )


def beit():
    config = transformers.BeitConfig(
        out_indices=[1, 2, 3, 4], use_relative_position_bias=True, pool_scales=[1, 2], **VIT
    )
    return transformers.BeitForSemanticSegmentation(config), BeitImageProcessorPil(size=dict(height=64, width=64))


def dpt():
    config = transformers.DPTConfig(
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, **VIT
    )
    return transformers.DPTForSemanticSegmentation(config), BeitImageProcessorPil(size=dict(height=64, width=64))


def upernet():
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        auxiliary_channels=8,
        auxiliary_in_channels=8,
        pool_scales=[1, 2],
        id2label=ID2LABEL,
    )
    model = transformers.UperNetForSemanticSegmentation(config)
    return model, SegformerImageProcessorPil(size=dict(height=64, width=64))


def mask2former():
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN), feature_size=32, mask_feature_size=32, **MASKED
    )
    size = dict(shortest_edge=64, longest_edge=128)
    return transformers.Mask2FormerForUniversalSegmentation(config), Mask2FormerImageProcessorPil(size=size)


def maskformer():
    layers = dict(encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    decoder = transformers.DetrConfig(d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6, **layers)
    config = transformers.MaskFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
        id2label=ID2LABEL,
    )
    size = dict(shortest_edge=64, longest_edge=128)
    return transformers.MaskFormerForInstanceSegmentation(config), MaskFormerImageProcessorPil(size=size)


def oneformer():
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN),
        mask_dim=32,
        conv_dim=32,
        text_encoder_width=16,
        text_encoder_context_length=8,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=100,
        text_encoder_n_ctx=2,
        task_seq_len=8,
        query_dec_layers=1,
        **MASKED,
    )
    size = dict(shortest_edge=64, longest_edge=128)
    return transformers.OneFormerForUniversalSegmentation(config), MaskFormerImageProcessorPil(size=size)


def eomt():
    sizes = VIT | dict(num_hidden_layers=2)
    config = transformers.EomtConfig(num_blocks=1, num_queries=6, num_register_tokens=1, **sizes)
    return transformers.EomtForUniversalSegmentation(config), MaskFormerImageProcessorPil(size=dict(shortest_edge=64))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Such small networks are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PER_PIXEL = [segformer, beit, dpt, upernet]
MASKS = [mask2former, maskformer, oneformer, eomt]


def save(folder: Path, build) -> Path:
    """A folder as people have it, with weights that favour no class so much that it wins everywhere."""
    torch.manual_seed(1)
    model, processor = build()
    for name, value in model.named_parameters():
        if value.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(value, std=1.5 / value[0].numel() ** 0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if build is oneformer:
        save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """CLIP's kind of tokenizer, which OneFormer uses, with the letters as its words."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made: dict = {}

    def folder(build) -> Path:
        if build not in made:
            made[build] = save(tmp_path_factory.mktemp(build.__name__), build)
        return made[build]

    return folder


def pictures(n: int, height: int, width: int | None = None) -> torch.Tensor:
    """Images whose colours are whole bytes, so that a processor of picture files sees the same."""
    pixels = torch.randint(
        0, 256, (n, 3, height // 8, (width or height) // 8), generator=torch.Generator().manual_seed(0)
    )
    return (pixels.float() / 127.5 - 1).repeat_interleave(8, 2).repeat_interleave(8, 3)


def processed(processor, images: torch.Tensor) -> torch.Tensor:
    """What transformers makes of the same pictures."""
    files = [((image.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy() for image in images]
    return processor(files, return_tensors="pt")["pixel_values"]


def output(model, pixels: torch.Tensor, **more):
    with torch.inference_mode():
        return model.eval()(pixels, **more)


@pytest.mark.parametrize("build", PER_PIXEL)
def test_a_model_that_scores_pixels_agrees_with_transformers(folders, build):
    segmenter = gandid.load_segmenter(folders(build))
    assert isinstance(segmenter, Segmenter)
    assert segmenter.classes == ("wall", "floor", "chair", "painting", "lamp")
    assert segmenter.background == ("wall", "floor")
    images = pictures(3, 64)
    theirs = segmenter.model.eval()
    logits = output(theirs, processed(build()[1], images))
    expected = SegformerImageProcessorPil().post_process_semantic_segmentation(logits, [(64, 64)] * 3)
    assert torch.equal(segmenter(images), torch.stack(expected))
    assert len(segmenter(images).unique()) > 1  # or the agreement would say nothing


@pytest.mark.parametrize("build", MASKS)
def test_a_model_that_gives_masks_agrees_with_transformers(folders, build):
    segmenter = gandid.load_segmenter(folders(build))
    assert segmenter.classes == ("wall", "floor", "chair", "painting", "lamp")
    # At the masks' own resolution nothing is resized, and both formulas are one.
    images = pictures(3, 16)
    more = {"task_inputs": segmenter.task.expand(3, -1)} if build is oneformer else {}
    seen = output(segmenter.model, segmenter.preparation(images), **more)
    assert seen["masks_queries_logits"].shape[2:] == (16, 16)
    expected = MaskFormerImageProcessorPil().post_process_semantic_segmentation(seen)
    assert torch.equal(segmenter(images), torch.stack(expected))
    assert len(segmenter(images).unique()) > 1


def test_masks_are_enlarged_as_mask2former_enlarges_them(folders):
    # It fixes 384 px, where no second resizing follows: the masks' logits are resized, not the classes' scores.
    segmenter = gandid.load_segmenter(folders(mask2former))
    images = pictures(2, 384)
    seen = output(segmenter.model, segmenter.preparation(images))
    expected = Mask2FormerImageProcessorPil().post_process_semantic_segmentation(seen)
    assert torch.equal(segmenter(images), torch.stack(expected))


@pytest.mark.parametrize(
    ("processor", "shape"),
    [
        (SegformerImageProcessorPil(size=dict(height=96, width=128)), (64, 64)),  # grows
        (SegformerImageProcessorPil(size=dict(height=32, width=32)), (128, 128)),  # shrinks, antialiased
        (BeitImageProcessorPil(size=dict(height=96, width=96)), (64, 64)),  # bicubic; 0.5 as mean
        (SegformerImageProcessorPil(do_resize=False), (48, 80)),
        (SegformerImageProcessorPil(do_normalize=False, size=dict(height=64, width=64)), (64, 64)),
        (SegformerImageProcessorPil(do_rescale=False, do_normalize=False, do_resize=False), (64, 64)),
        (Mask2FormerImageProcessorPil(size=dict(shortest_edge=96, longest_edge=400)), (64, 120)),  # multiples of 32
        (Mask2FormerImageProcessorPil(size=dict(shortest_edge=96, longest_edge=128), size_divisor=16), (64, 160)),
    ],
)
def test_images_are_prepared_as_the_model_was_taught(processor, shape):
    # Of middling contrast: PIL cuts off what bicubic overshoots after each of two passes, and here it is after both.
    images = ((pictures(2, *shape) * 80).round() - 0.5) / 127.5
    prepared = Preparation.from_dict(json.loads(processor.to_json_string()))(images)
    expected = processed(processor, images)
    assert prepared.shape == expected.shape
    # Theirs rounds to whole bytes after resizing: half a byte, and for bicubic one more.
    unit = (processor.rescale_factor if processor.do_rescale else 1) / (
        min(processor.image_std) if processor.do_normalize else 1
    )
    assert (prepared - expected).abs().max() <= 1.6 * unit
    assert (prepared - expected).abs().mean() <= 0.5 * unit


def test_older_and_rarer_preparations_are_understood():
    old = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert Preparation.from_dict(old | {"size": 40}).input_size(64, 96) == (40, 40)
    assert Preparation.from_dict(old | {"size": 40, "max_size": 50}).input_size(64, 96) == (33, 50)
    assert Preparation.from_dict(old | {"size": [40, 50]}).input_size(64, 64) == (40, 50)
    assert Preparation.from_dict(old | {"size": 40, "ensure_multiple_of": 32}).input_size(64, 64) == (64, 64)
    # MobileViT cuts out the center of a slightly larger picture; here the whole picture takes its place.
    cut = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}
    assert Preparation.from_dict(cut | {"do_normalize": False}).input_size(256, 256) == (64, 64)
    blue_first = Preparation.from_dict({"size": 16, "do_normalize": False, "do_flip_channel_order": True})
    red = torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert blue_first(red)[0, :, 0, 0].tolist() == [0, 0, 1]


def test_colours_out_of_range_are_cut_off(folders):
    segmenter = gandid.load_segmenter(folders(segformer))
    images = 3 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(segmenter(images), segmenter(images.clamp(-1, 1)))


def test_the_input_size_is_the_users_to_choose(folders):
    images = pictures(2, 64)
    for build in (segformer, beit, dpt, mask2former):
        chosen = gandid.load_segmenter(folders(build), size=96)
        seen = []
        chosen.model.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].shape))
        assert chosen(images).shape == (2, 64, 64)
        assert seen == [(2, 3, 96, 96)]
    assert gandid.load_segmenter(folders(segformer), size=(64, 96)).preparation.input_size(64, 64) == (64, 96)
    for wrong in (0, -5, (64, 0), 10**6):
        with pytest.raises(UsageError, match="an input size is a number of pixels from 1 to 8192"):
            gandid.load_segmenter(folders(segformer), size=wrong)


def test_a_size_that_the_network_refuses_is_one_line(folders):
    with pytest.raises(UsageError, match=r"takes no input of 96 x 96 .*: choose another size"):
        gandid.load_segmenter(folders(eomt), size=96)(pictures(1, 64))


@pytest.mark.parametrize("build", [segformer, mask2former])
def test_probabilities_sum_to_one_and_their_largest_is_the_label(folders, build):
    segmenter = gandid.load_segmenter(folders(build))
    images = pictures(5, 64, 96)
    probabilities = segmenter.probabilities(images)
    assert probabilities.shape == (5, 5, 64, 96) and probabilities.dtype == torch.float32
    assert probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5, 64, 96))
    assert torch.equal(probabilities.argmax(1), segmenter(images))


def test_several_scales_average_their_probabilities(folders):
    images = pictures(2, 64)
    together = gandid.load_segmenter(folders(segformer), scales=(0.5, 1, 1.5))
    apart = [gandid.load_segmenter(folders(segformer), size=size).probabilities(images) for size in (32, 64, 96)]
    torch.testing.assert_close(together.probabilities(images), torch.stack(apart).mean(0))
    assert torch.equal(together(images), together.probabilities(images).argmax(1))
    # Sizes that no backbone can halve five times are rounded to those it can.
    assert together.preparation.input_size(64, 64, scale=0.8) == (64, 64)
    for wrong in ([], [0], [-1, 1], [100]):
        with pytest.raises(UsageError, match="scales are factors"):
            gandid.segmenters.huggingface.load_huggingface(str(folders(segformer)), scales=wrong)


@pytest.mark.parametrize("build", [segformer, mask2former])
def test_the_chunk_bounds_the_memory_and_changes_nothing(folders, build):
    segmenter = gandid.load_segmenter(folders(build))
    images = pictures(5, 64)
    batches = []
    segmenter.model.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    segmenter.chunk = 5
    whole = segmenter(images), segmenter.probabilities(images)
    segmenter.chunk = 2
    assert torch.equal(segmenter(images), whole[0])
    torch.testing.assert_close(segmenter.probabilities(images), whole[1])
    assert batches == [5, 5, 2, 2, 1, 2, 2, 1]
    assert segmenter(images[:0]).shape == (0, 64, 64)


@pytest.mark.parametrize("build", [segformer, mask2former])
def test_in_half_precision_the_network_alone_is_coarser(folders, build):
    segmenter = gandid.load_segmenter(folders(build))
    images = pictures(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        labels, probabilities = segmenter(images), segmenter.probabilities(images)
    assert labels.dtype == torch.int64 and probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3, 64, 64))
    assert (labels == segmenter(images)).float().mean() > 0.8
    assert not torch.equal(probabilities, segmenter.probabilities(images))


def test_oneformer_is_told_its_task_with_the_folders_tokenizer(folders, tmp_path):
    segmenter = gandid.load_segmenter(folders(oneformer))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folders(oneformer))
    ids = tokenizer("the task is semantic")["input_ids"][:8]
    assert segmenter.task.shape == (1, 8) and segmenter.task[0, :7].tolist() == ids[:7]
    bare = save(tmp_path, oneformer)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (bare / file).unlink()
    with pytest.raises(UsageError, match=r"has no tokenizer .*: OneFormer needs its task in words"):
        gandid.load_segmenter(bare)


def test_what_tells_two_models_apart_is_in_their_fingerprints(folders, tmp_path):
    folder = folders(segformer)
    same = fingerprint(gandid.load_segmenter(folder))
    assert fingerprint(gandid.load_segmenter(folder)) == same
    other_weights = gandid.load_segmenter(folder)
    next(other_weights.parameters()).data[0] += 1
    model = gandid.load_segmenter(folder).model
    model.config.layer_norm_eps = 0.1  # as many weights, another function
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    others = [
        other_weights,
        gandid.load_segmenter(folder, size=96),
        gandid.load_segmenter(folder, scales=(1, 1.5)),
        gandid.load_segmenter(folder, background=["wall"]),
        gandid.load_segmenter(tmp_path),
    ]
    assert len({same, *map(fingerprint, others)}) == 6


def test_the_background_is_the_users_to_choose(folders):
    assert gandid.load_segmenter(folders(segformer), background=["lamp"]).background == ("lamp",)
    with pytest.raises(UsageError, match="unknown background class 'walls': did you mean 'wall'"):
        gandid.load_segmenter(folders(segformer), background=["walls"])
    with pytest.raises(UsageError, match="unknown background class 'zebra': the classes are wall, floor, chair"):
        check_background(["zebra"], ("wall", "floor", "chair"))


def test_a_model_without_known_background_says_so(tmp_path):
    folder = save(tmp_path, lambda: segformer(id2label={0: "hat", 1: "hair", 2: "skirt"}))
    with pytest.warns(UserWarning, match=r"none of its classes \(hat, hair, skirt, ...\) is known to be background"):
        assert gandid.load_segmenter(folder).background == ()


def test_names_are_the_first_synonyms_and_unique():
    words = [
        "wall",
        "tree",
        "road, route",
        "window ",
        "screen door, screen",
        "screen, silver screen",
        "screen",
        "",
        "wall",
    ]
    names, background = name_classes(words)
    assert names == ("wall", "tree", "road", "window", "screen door", "screen", "screen 6", "class 7", "wall 8")
    assert background == ("wall", "road", "wall 8")


def test_other_data_sets_words_for_background_are_known():
    cityscapes = ["road", "sidewalk", "building", "wall", "fence", "pole", "vegetation", "terrain", "sky", "car"]
    assert name_classes(cityscapes)[1] == ("road", "sidewalk", "building", "wall", "terrain", "sky")
    coco = ["floor-wood", "wall-other-merged", "grass-merged", "tree-merged", "door-stuff", "cat"]
    assert name_classes(coco)[1] == ("floor-wood", "wall-other-merged", "grass-merged")
    assert name_classes(["Background", "cat"])[1] == ("Background",)


def edited(folder: Path, file: str, **changes) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: remove(f, "config.json"), "holds no model: a folder with config.json is needed"),
        (lambda f: remove(f, "preprocessor_config.json"), "has no readable preprocessor_config.json"),
        (lambda f: remove(f, "model.safetensors"), "has no weights: model.safetensors or pytorch_model.bin is missing"),
        (lambda f: (f / "config.json").write_text("{"), "is not a model that transformers can load"),
        (lambda f: (f / "config.json").write_text("{}"), "is not a model that transformers can load"),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), "has no readable preprocessor_config.json"),
        (lambda f: (f / "preprocessor_config.json").write_text("{}"), "preprocessor_config.json lacks a value"),
        (lambda f: edited(f, "preprocessor_config.json", size={"depth": 3}), "preprocessor_config.json lacks a value"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nothing"), "is not a model that transformers can load"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
            r"\(bert\) does not segment semantically: these types do: beit",
        ),
        (lambda f: edited(f, "config.json", model_type="nonesuch"), "is not a model that transformers can load"),
        (lambda f: edited(f, "config.json", decoder_hidden_size=32), r"is of shape \(.*\) in its weights, and of"),
        (lambda f: edited(f, "config.json", depths=[1, 1, 1, 2]), r"lacks \d+ of the weights of SegformerForSemantic"),
        (
            lambda f: edited(f, "config.json", id2label=dict(enumerate([*NAMES, "another"]))),
            "names 6 classes, but the weights score 5",
        ),
        (lambda f: edited(f, "config.json", id2label=dict(enumerate(NAMES, 1))), "does not number the classes from 0"),
    ],
)
def test_a_folder_that_is_not_a_whole_model_is_refused_in_one_line(folders, tmp_path, spoil, message):
    for file in folders(segformer).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        gandid.load_segmenter(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_classifier_is_not_taken_for_a_segmenter(tmp_path):
    transformers.BeitForImageClassification(transformers.BeitConfig(out_indices=[1, 2, 3, 4], **VIT)).save_pretrained(
        tmp_path
    )
    BeitImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"was saved from BeitForImageClassification and lacks .* choose a model"):
        gandid.load_segmenter(tmp_path)


def test_pytorch_bin_weights_load_without_unpickling_objects(folders, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((folders(segformer) / name).read_text())
    model = gandid.load_segmenter(folders(segformer))
    torch.save(model.model.state_dict(), tmp_path / "pytorch_model.bin")
    images = pictures(2, 64)
    assert torch.equal(gandid.load_segmenter(tmp_path)(images), model(images))

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"weight": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="is not a model that transformers can load"):
        gandid.load_segmenter(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_code_in_a_folder_never_runs(folders, tmp_path):
    for file in folders(segformer).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "own.py").write_text(
        f"open({str(tmp_path / 'exploded')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    classes = {"AutoConfig": "own.Config", "AutoModelForSemanticSegmentation": "own.Model"}
    edited(tmp_path, "config.json", auto_map=classes, attn_implementation="somebody/kernels")
    gandid.load_segmenter(tmp_path)  # by transformers' own class
    edited(tmp_path, "config.json", model_type="nonesuch")
    with pytest.raises(UsageError, match="is not a model that transformers can load"):
        gandid.load_segmenter(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_without_transformers_it_says_what_to_install(monkeypatch, folders):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"needs the package transformers: pip install 'gandid\[segmenters\]'"):
        gandid.load_segmenter(folders(segformer))


class Hub(BaseHTTPRequestHandler):
    """The hub's answers to the three questions that fetching a model asks, for one model in a folder."""

    folder: Path
    asked: list[str]
    commit = "0123456789" * 4

    def do_GET(self):
        self.asked.append(self.path)
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        path = self.path.partition("?")[0]
        status, headers, content = 200, {"X-Repo-Commit": self.commit}, b""
        if path == f"/api/models/somebody/tiny/tree/{self.commit}":
            listing = [{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in files.items()]
            content = json.dumps(listing).encode()
        elif path.startswith("/api/models/somebody/tiny"):
            content = json.dumps({"id": "somebody/tiny", "sha": self.commit, "siblings": []}).encode()
        elif path.startswith(f"/somebody/tiny/resolve/{self.commit}/") and (name := path.rpartition("/")[2]) in files:
            content = files[name]
            headers["ETag"] = f'"{name}"'
        else:
            status = 404
            headers["X-Error-Code"] = "RepoNotFound"
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on the loopback, with an empty cache."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"folder": tmp_path / "hub", "asked": []}))
    (tmp_path / "hub").mkdir()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub_is_fetched_once(hub, folders, monkeypatch):
    handler = hub.RequestHandlerClass
    for file in [*folders(segformer).iterdir()]:
        (handler.folder / file.name).write_bytes(file.read_bytes())
    (handler.folder / "pytorch_model.bin").write_bytes(b"not to be fetched")
    images = pictures(2, 64)
    segmenter = gandid.load_segmenter("somebody/tiny")
    assert segmenter.name == "somebody/tiny"
    assert torch.equal(segmenter(images), gandid.load_segmenter(folders(segformer))(images))
    fetched = [path.rpartition("/")[2] for path in handler.asked if "/resolve/" in path]
    assert sorted(fetched) == ["config.json", "model.safetensors", "preprocessor_config.json"]

    handler.asked.clear()
    gandid.load_segmenter("somebody/tiny")
    assert handler.asked == []


def test_where_the_hub_has_no_safetensors_the_bin_file_is_fetched(hub, folders):
    handler = hub.RequestHandlerClass
    for name in ("config.json", "preprocessor_config.json"):
        (handler.folder / name).write_bytes((folders(segformer) / name).read_bytes())
    torch.save(gandid.load_segmenter(folders(segformer)).model.state_dict(), handler.folder / "pytorch_model.bin")
    for _ in range(2):
        images = pictures(2, 64)
        assert torch.equal(
            gandid.load_segmenter("somebody/tiny")(images), gandid.load_segmenter(folders(segformer))(images)
        )
    assert sum(path.endswith("/pytorch_model.bin") for path in handler.asked) == 1


def test_a_model_that_cannot_be_fetched_is_one_line_and_soon(hub, monkeypatch):
    from huggingface_hub import constants

    line = r"is not in the cache and could not be fetched \(.*\): .* run 'hf download .* --local-dir FOLDER'"
    begun = time.monotonic()
    with pytest.raises(GandidError, match="somebody/other " + line):
        gandid.load_segmenter("somebody/other")  # the hub does not know it
    hub.shutdown()
    hub.server_close()
    with pytest.raises(GandidError, match="somebody/tiny " + line):
        gandid.load_segmenter("somebody/tiny")  # nobody is there
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("gandid.segmenters.huggingface.PATIENCE", 0.3)
        with pytest.raises(GandidError, match="somebody/tiny " + line):
            gandid.load_segmenter("somebody/tiny")  # nobody answers
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(GandidError, match="somebody/tiny " + line) as caught:
        gandid.load_segmenter("somebody/tiny")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 20
