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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gandid.errors import GandidError, UsageError, told
from gandid.segmenters.names import check_background, name_classes

MASKS = ("maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3")  # model types that give masks with classes
PATIENCE = 10  # seconds that the hub has to answer
STEP = 32  # resized scales are multiples of this many pixels: what every backbone can halve


@dataclass(frozen=True)
class Preparation:
    """How images become a network's input, as its `preprocessor_config.json` has it.

    Attributes
    ----------
    size : dict or None
        `height` and `width`; or `shortest_edge` and perhaps `longest_edge`, which keep the picture's proportions.
        None leaves images as they are.
    multiple : int
        Height and width are rounded up to multiples of this.
    resample : str
        `bilinear`, `bicubic` or `nearest`.
    rescale : float
        What pixels of 0 to 255 are multiplied by.
    mean, std : tuple of three float
        Per channel: subtracted after that, and divided by.
    bgr : bool
        Blue first.
    """

    size: dict[str, int] | None
    multiple: int
    resample: str
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    @classmethod
    def from_dict(cls, given: dict[str, Any], size: int | tuple[int, int] | None = None) -> Preparation:
        """Read a `preprocessor_config.json`, of the present or of older versions; `size` wins over what it says."""
        normalize = given.get("do_normalize", True)
        return cls(
            size=_size(given, size),
            multiple=given.get("size_divisor")
            or given.get("size_divisibility")
            or given.get("ensure_multiple_of")
            or 1,
            # PIL's numbers; its Lanczos has no counterpart in torch, and bicubic is the nearest thing.
            resample={0: "nearest", 2: "bilinear"}.get(given.get("resample", 2), "bicubic"),
            rescale=given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0,
            mean=tuple(given["image_mean"]) if normalize else (0.0, 0.0, 0.0),
            std=tuple(given["image_std"]) if normalize else (1.0, 1.0, 1.0),
            bgr=bool(given.get("do_flip_channel_order", False)),
        )

    def input_size(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width of the network's input for an image's."""
        wanted: tuple[float, float]
        if self.size is None:
            wanted = height, width
        elif "height" in self.size:
            wanted = self.size["height"], self.size["width"]
        else:
            ratio = self.size["shortest_edge"] / min(height, width)
            longest = self.size.get("longest_edge")
            if longest and ratio * max(height, width) > longest:
                ratio = longest / max(height, width)
            wanted = round(ratio * height), round(ratio * width)
        if scale != 1:
            wanted = (
                max(STEP, STEP * round(scale * wanted[0] / STEP)),
                max(STEP, STEP * round(scale * wanted[1] / STEP)),
            )
        return -int(-wanted[0] // self.multiple) * self.multiple, -int(-wanted[1] // self.multiple) * self.multiple

    def __call__(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Prepare images (N, 3, H, W), float32 in [-1, 1]; what lies outside is cut off, as a picture file would."""
        pixels = (images.clamp(-1, 1) + 1) * 127.5
        size = self.input_size(images.shape[2], images.shape[3], scale)
        if size != tuple(images.shape[2:]):
            smooth = self.resample != "nearest"
            # Antialiased, as PIL resizes; it makes no difference where images grow.
            pixels = F.interpolate(pixels, size, mode=self.resample, antialias=smooth).clamp(0, 255)
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        pixels = (pixels * self.rescale - mean) / std
        return pixels.flip(1) if self.bgr else pixels


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
        """Label each pixel.

        Parameters
        ----------
        images : Tensor, float, shape (N, 3, H, W)
            Colours in [-1, 1].

        Returns
        -------
        Tensor, int64, shape (N, H, W)
            Index into `classes`.

        Raises
        ------
        UsageError
            If the shape is another one, or the network does not take inputs of the size it is given.
        """
        _check(images)
        labels = torch.empty(len(images), *images.shape[2:], dtype=torch.int64, device=self.device)
        for start in range(0, len(images), self.chunk):
            rows = slice(start, start + self.chunk)
            labels[rows] = self._scores(images[rows], normalized=len(self.scales) > 1).argmax(1)
        return labels

    @torch.inference_mode()
    def labels_and_confidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Labels as a call gives them, and their `probabilities`: (N, H, W) each, from one pass."""
        _check(images)
        largest = [self._scores(some, normalized=True).max(1) for some in images.split(self.chunk)]
        return torch.cat([one.indices for one in largest]), torch.cat([one.values for one in largest])

    def probabilities(self, images: Tensor) -> Tensor:
        """Probability of each class at each pixel: (N, C, H, W) float32, for images as in a call.

        It is the network's softmax; of a network that gives masks, it is each class's share of the sum of the
        classes' scores, which ranks pixels by how sure the network is and is nobody's frequency. With several scales,
        it is the mean over them. Differentiable. The result takes `4 * C * H * W` bytes per image.
        """
        _check(images)
        return torch.cat([self._scores(some, normalized=True) for some in images.split(self.chunk)])

    def _scores(self, images: Tensor, normalized: bool) -> Tensor:
        """Scores at the images' size, (N, C, H, W) float32: the largest tells the class."""
        images = images.to(self.device, torch.float32)
        total = self._scores_at(images, self.scales[0], normalized)
        for scale in self.scales[1:]:
            total = total + self._scores_at(images, scale, normalized)
        return total / len(self.scales)

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
            return (
                scores / scores.sum(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny) if normalized else scores
            )


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
        import transformers
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as PER_PIXEL
    except ImportError:
        raise UsageError(f"{name} needs the package transformers: pip install 'gandid[segmenters]'") from None

    folder = Path(name) if Path(name).is_dir() else _fetch(name)
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with _quiet(), _one_line(f"{name} is not a model that transformers can load"):
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"{name} holds no model: a folder with config.json is needed, as save_pretrained writes it"
            )
        config = transformers.AutoConfig.from_pretrained(folder, **here)
        # Not the folder's to choose: it may name a download. None leaves it to transformers.
        config._attn_implementation = None
        if config.model_type not in (*PER_PIXEL, *MASKS):
            known = ", ".join(sorted((*PER_PIXEL, *MASKS)))
            raise UsageError(f"{name} ({config.model_type}) does not segment semantically: these types do: {known}")
        if size is None and config.model_type.startswith("eomt"):
            size = config.image_size  # it takes no other
        preparation = _preparation(folder, size)
        masks = config.model_type in MASKS
        auto = (
            transformers.AutoModelForUniversalSegmentation if masks else transformers.AutoModelForSemanticSegmentation
        )
        model = _model(name, folder, auto, config, here)
        task = _task(folder, config, here) if config.model_type == "oneformer" else None

    if sorted(config.id2label) != list(range(config.num_labels)):
        raise UsageError(
            f"{name}: id2label in config.json does not number the classes from 0 to {config.num_labels - 1}"
        )
    classes, known_background = name_classes([str(config.id2label[i]) for i in range(config.num_labels)])
    if background is None and not known_background:
        warnings.warn(
            f"{name}: none of its classes ({', '.join(classes[:5])}, ...) is known to be background, so that all count "
            "as objects; say which fill any hole with background=[...]",
            stacklevel=2,
        )
    chosen = known_background if background is None else check_background(background, classes)
    segmenter = HuggingFaceSegmenter(model, preparation, classes, chosen, scales=scales, task=task, name=name).to(
        device
    )
    if segmenter.device.type != "cpu":
        segmenter.chunk = 16
    return segmenter


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


def _size(given: dict[str, Any], chosen: int | tuple[int, int] | None) -> dict[str, int] | None:
    """The input size of a `preprocessor_config.json`, in one of the forms of `Preparation.size`."""
    if chosen is not None:
        height, width = (chosen, chosen) if isinstance(chosen, int) else chosen
        if not (1 <= height <= 8192 and 1 <= width <= 8192):
            raise UsageError(f"an input size is a number of pixels from 1 to 8192, or two, not {chosen}")
        return {"height": height, "width": width}
    # Where the center would be cut out, the whole is fitted into its place: every pixel needs a label.
    cut = given.get("do_center_crop", False) and "crop_size" in given
    if not cut and not given.get("do_resize", True):
        return None
    size = given["crop_size" if cut else "size"]
    if isinstance(size, int):  # older files
        size = {"height": size, "width": size}
        if "max_size" in given:
            size = {"shortest_edge": size["height"], "longest_edge": given["max_size"]}
    if isinstance(size, list):
        size = dict(zip(("height", "width"), size, strict=True))
    size = {key: int(value) for key, value in size.items() if value}
    if not ({"height", "width"} <= size.keys() or "shortest_edge" in size):
        raise ValueError(f"size {size}")
    return size


def _model(name: str, folder: Path, auto: Any, config: Any, here: dict[str, Any]) -> nn.Module:
    if not (_has_safetensors(folder) or any(folder.glob("pytorch_model*.bin"))):
        raise UsageError(f"{name} has no weights: model.safetensors or pytorch_model.bin is missing")
    model, info = auto.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=_has_safetensors(folder),
        weights_only=True,
        ignore_mismatched_sizes=True,  # to say it in words of our own
        output_loading_info=True,
        **here,
    )
    if info["mismatched_keys"]:
        key, *_ = sorted(info["mismatched_keys"])[0]
        raise UsageError(f"{name}: the shape of {key} in its weights is not the one of its config.json")
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


def _task(folder: Path, config: Any, here: dict[str, Any]) -> Tensor:
    """OneFormer's second input: the tokens of the task's name, (1, length)."""
    from transformers import AutoTokenizer

    if not any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json")):
        raise UsageError(
            f"{folder} has no tokenizer (vocab.json and merges.txt, or tokenizer.json): OneFormer needs its task in words"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, **here)
    text = tokenizer(
        "the task is semantic",
        padding="max_length",
        truncation=True,
        max_length=config.task_seq_len,
        return_tensors="pt",
    )
    return text["input_ids"] * text["attention_mask"]


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"a segmenter takes images of shape (N, 3, H, W), not {tuple(images.shape)}")


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
    line = told(error)
    return line if len(line) <= 200 else line[:200] + "..."
