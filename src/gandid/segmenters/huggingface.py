"""Segmentation models of the Hugging Face library `transformers`, from its hub or from a local folder.

Two kinds of model can say what every pixel is. One scores each class at each position (SegFormer, UPerNet, BEiT, DPT
and others). The other gives a set of masks, each with a class (MaskFormer, Mask2Former, OneFormer, EoMT); read
semantically, a class's score at a pixel is the sum over masks of the mask's probability there times the class's
probability (Cheng et al. 2021, "Per-Pixel Classification is Not All You Need", section 3.4). Either way the network
answers at a fraction of its input's resolution, and its scores are brought to the image's size before the likeliest
class is taken: taken before, it would move the borders of objects by pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gandid.errors import GandidError, UsageError, first_line
from gandid.segmenters.names import check_background, name_classes
from gandid.segmenters.preparation import Preparation

MASKS = ("maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3")  # model types that give masks with classes
HERE = {"local_files_only": True, "trust_remote_code": False}  # code in a folder never runs
PATIENCE = 10  # seconds that the hub has to answer


class HuggingFaceSegmenter(nn.Module):
    """A `Segmenter` made of a model of `transformers`; `load_huggingface` builds one.

    Attributes
    ----------
    classes, background : tuple of str
        See `Segmenter`.
    scales : tuple of float
        The network sees the images at its input size times each of these; the probabilities are averaged.
    chunk : int
        Images segmented at once, whatever the batch: it bounds the memory, and does not change the labels.
    name : str
        Under which it was loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        preparation: Preparation,
        classes: tuple[str, ...],
        background: tuple[str, ...],
        *,
        scales: Sequence[float] = (1.0,),
        task: Tensor | None = None,
        name: str | None = None,
    ):
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        self.preparation, self.classes, self.background = preparation, classes, background
        self.scales, self.name, self.chunk = tuple(scales), name, 2
        self.task: Tensor | None
        self.register_buffer("task", task, persistent=False)  # OneFormer's: the tokens of the task's name
        self._options: dict[str, Any] = {}
        if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
            self._options["interpolate_pos_encoding"] = True

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @property
    def settings(self) -> dict[str, Any]:
        """What else than the weights decides the labels, as plain values: for a study's fingerprint."""
        config = self.model.config.to_diff_dict()
        for key in ("_name_or_path", "transformers_version", "architectures", "dtype"):
            config.pop(key, None)
        return {
            "model": type(self.model).__name__,
            "config": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
            "preparation": json.loads(json.dumps(asdict(self.preparation))),
            "scales": list(self.scales),
            "classes": list(self.classes),
            "background": list(self.background),
            "task": None if self.task is None else self.task.flatten().tolist(),
        }

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Label each pixel of images (N, 3, H, W), colours in [-1, 1]: int64 (N, H, W), the index into `classes`.

        Raises
        ------
        UsageError
            If the shape is another one, or the network does not take inputs of the size it is given.
        """
        several = len(self.scales) > 1
        if not len(images):
            return torch.empty(0, *images.shape[2:], dtype=torch.int64, device=self.device)
        return torch.cat([self._scores(part, normalized=several).argmax(1) for part in self._parts(images)])

    def probabilities(self, images: Tensor) -> Tensor:
        """Probability of each class at each pixel: (N, C, H, W) float32, for images as in a call.

        It is the network's softmax; of a network that gives masks, it is each class's share of the sum of the
        classes' scores, which ranks pixels by how sure the network is and is nobody's frequency. With several scales,
        it is the mean over them. Differentiable. The result takes `4 * C * H * W` bytes per image.
        """
        return torch.cat([self._scores(part, normalized=True) for part in self._parts(images)])

    def _parts(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"a segmenter takes images of shape (N, 3, H, W), not {tuple(images.shape)}")
        return images.split(self.chunk)

    def _scores(self, images: Tensor, normalized: bool) -> Tensor:
        """Scores at the images' size, (N, C, H, W) float32: the largest tells the class."""
        images = images.to(self.device, torch.float32)
        first, *others = (self._scores_at(images, scale, normalized) for scale in self.scales)
        return sum(others, first) / len(self.scales)

    def _scores_at(self, images: Tensor, scale: float, normalized: bool) -> Tensor:
        # The network alone runs at whatever precision the caller's autocast says.
        exact = torch.autocast(self.device.type, enabled=False)
        with exact:
            pixels = self.preparation(images, scale)
        options = self._options if self.task is None else {"task_inputs": self.task.expand(len(images), -1)}
        try:
            output = self.model(pixels, **options)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                raise  # for whoever chose the batch
            height, width = pixels.shape[2:]
            raise UsageError(
                f"{self.name} takes no input of {height} x {width} ({_line(error)}): choose another size"
            ) from error
        size = images.shape[2:]
        with exact:
            if "logits" in output:
                scores = _resized(output["logits"], size)
                return scores.softmax(1) if normalized else scores
            named = output["class_queries_logits"].float().softmax(-1)[..., :-1]  # the last one is "no object"
            masks = _resized(output["masks_queries_logits"], size).sigmoid()
            scores = torch.einsum("nqc,nqhw->nchw", named, masks)
            if normalized:
                scores = scores / scores.sum(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
            return scores


def load_huggingface(
    name: str,
    device: str | torch.device = "cpu",
    *,
    size: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    background: Iterable[str] | None = None,
) -> HuggingFaceSegmenter:
    """Load a segmentation model of `transformers`.

    Only safetensors, or weights that `torch.load` reads without unpickling objects; code in a folder never runs.

    Parameters
    ----------
    name : str
        A folder, or a model's id on the hub (`owner/model`); one that was fetched before is taken from the cache,
        without asking the network.
    device : str or torch.device
        Where it computes.
    size : int or (int, int), optional
        Height and width of the network's input; by default what the folder's `preprocessor_config.json` says.
    scales : sequence of float
        See `HuggingFaceSegmenter.scales`.
    background : iterable of str, optional
        The classes that are not objects; by default those in `gandid.segmenters.names.BACKGROUND`.

    Returns
    -------
    HuggingFaceSegmenter

    Raises
    ------
    UsageError
        If the folder holds no such model, or is damaged; if `size`, `scales` or `background` make no sense.
    GandidError
        If the model is not here and cannot be fetched.
    """
    if not scales or not all(0.1 <= scale <= 10 for scale in scales):
        raise UsageError(f"scales are factors between 0.1 and 10, such as 0.75, 1, 1.25; not {list(scales)}")
    try:
        from transformers import AutoConfig
    except ImportError:
        raise UsageError(f"{name} needs the package transformers: pip install 'gandid[segmenters]'") from None

    folder = Path(name) if Path(name).is_dir() else _fetch(name)
    with _quiet(), _one_line(f"{name} is not a model that transformers can load"):
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{name} holds no model: a folder with config.json is needed, as save_pretrained writes it"
            )
        config = AutoConfig.from_pretrained(folder, **HERE)
        # Not the folder's to choose: it may name a download. None leaves it to transformers.
        config._attn_implementation = None
        if size is None and config.model_type.startswith("eomt"):
            size = config.image_size  # it takes no other
        preparation = _preparation(folder, size)
        model = _model(name, folder, config)
        task = _task(folder, config) if config.model_type == "oneformer" else None
    classes, chosen = _classes(name, config, background)
    segmenter = HuggingFaceSegmenter(model, preparation, classes, chosen, scales=scales, task=task, name=name)
    segmenter.chunk = 2 if torch.device(device).type == "cpu" else 16
    return segmenter.to(device)


def _classes(name: str, config: Any, background: Iterable[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a model's classes, and which of them are background."""
    if sorted(config.id2label) != list(range(config.num_labels)):
        raise UsageError(
            f"{name}: id2label in config.json does not number the classes from 0 to {config.num_labels - 1}"
        )
    classes, known = name_classes([str(config.id2label[i]) for i in range(config.num_labels)])
    if background is not None:
        return classes, check_background(background, classes)
    if not known:
        warnings.warn(
            f"{name}: none of its classes ({', '.join(classes[:5])}, ...) is known to be background, so that all count "
            "as objects; say which fill any hole with background=[...]",
            stacklevel=4,
        )
    return classes, known


def _fetch(name: str) -> Path:
    """Give the folder of a model of the hub: the cached one, or fetched now."""
    from huggingface_hub import HfApi, snapshot_download

    def get(patterns: list[str], cached: bool) -> Path:
        # Of the top folder alone; other frameworks' weights are left.
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns="*/*", local_files_only=cached))

    def whole(cached: bool) -> Path:
        folder = get(["*.json", "*.txt", "*.safetensors"], cached)
        return folder if _has_safetensors(folder) else get(["*.json", "*.txt", "pytorch_model*.bin"], cached)

    with contextlib.suppress(OSError):
        folder = whole(cached=True)
        if (folder / "config.json").is_file() and (_has_safetensors(folder) or any(folder.glob("*.bin"))):
            return folder
    try:
        HfApi().model_info(name, timeout=PATIENCE)  # what follows would wait forever for a network that swallows all
        return whole(cached=False)
    except Exception as error:  # of several libraries: the network, the hub's answers, the disk
        raise GandidError(
            f"{name} is not in the cache and could not be fetched ({_line(error)}): check the name and the network; or "
            f"run 'hf download {name} --local-dir FOLDER' where there is one, and give that folder"
        ) from error


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _preparation(folder: Path, size: int | tuple[int, int] | None) -> Preparation:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        given, _ = ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)
    except OSError:
        raise UsageError(
            f"{folder} has no readable preprocessor_config.json, which says how images are normalized: the image "
            "processor's save_pretrained writes it"
        ) from None
    try:
        return Preparation.from_dict(given, size)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{folder}/preprocessor_config.json lacks a value or has a wrong one: {_line(error)}"
        ) from None


def _model(name: str, folder: Path, config: Any) -> nn.Module:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as PER_PIXEL

    if config.model_type not in (*PER_PIXEL, *MASKS):
        known = ", ".join(sorted((*PER_PIXEL, *MASKS)))
        raise UsageError(f"{name} ({config.model_type}) does not segment semantically: these types do: {known}")
    if not (_has_safetensors(folder) or any(folder.glob("pytorch_model*.bin"))):
        raise UsageError(f"{name} has no weights: model.safetensors or pytorch_model.bin is missing")
    kind = "Universal" if config.model_type in MASKS else "Semantic"
    auto: Any = getattr(transformers, f"AutoModelFor{kind}Segmentation")
    model, info = auto.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=_has_safetensors(folder),
        weights_only=True,
        ignore_mismatched_sizes=True,  # to say it in words of our own
        output_loading_info=True,
        **HERE,
    )
    if info["mismatched_keys"]:
        key, there, here = sorted(info["mismatched_keys"])[0]
        extra = here[0] - config.num_labels  # masks have a score for "no object" besides
        if tuple(there[1:]) == tuple(here[1:]) and extra in (0, 1):
            raise UsageError(
                f"{name}: config.json names {config.num_labels} classes, but the weights score {there[0] - extra} ({key}): correct "
                "its id2label"
            )
        raise UsageError(
            f"{name}: {key} is of shape {tuple(there)} in its weights, and of shape {tuple(here)} by its config.json"
        )
    # What is missing would keep random values. The auxiliary head only serves training.
    needed = {key for key, _ in model.named_parameters() if "auxiliary_head" not in key}
    missing = sorted(needed & set(info["missing_keys"]))
    if missing:
        made = ", ".join(config.architectures or ["another network"])
        raise UsageError(
            f"{name} was saved from {made} and lacks {len(missing)} of the weights of {type(model).__name__} "
            f"({missing[0]}, ...): choose a model that was trained to segment"
        )
    return model


def _task(folder: Path, config: Any) -> Tensor:
    """OneFormer's second input: the tokens of the task's name, (1, length)."""
    from transformers import AutoTokenizer

    if not any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json")):
        raise UsageError(
            f"{folder} has no tokenizer (vocab.json and merges.txt, or tokenizer.json): OneFormer needs its task in words"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, **HERE)
    text = tokenizer(
        "the task is semantic",
        padding="max_length",
        truncation=True,
        max_length=config.task_seq_len,
        return_tensors="pt",
    )
    return text["input_ids"] * text["attention_mask"]


def _resized(scores: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(scores.float(), size=tuple(size), mode="bilinear", align_corners=False)


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn whatever a folder of unknown origin makes transformers raise into one line."""
    try:
        yield
    except GandidError:
        raise
    except Exception as error:
        raise UsageError(f"{what}: {_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of transformers; what matters in them is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    line = first_line(error)
    return line if len(line) <= 200 else line[:200] + "..."
