"""What a checkpoint holds and for what, and the JSON description of it.

The description stands in our own files and, without its format, in the registry's entries.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from repa.autoencoders.latent_space import PIXELS, SD_LATENTS, LatentSpace
from repa.checkpoints.names import SAMPLED
from repa.data.held_out import HeldOutReference
from repa.errors import suggestion
from repa.models.prediction import Prediction
from repa.models.sit import SIT_SIZES
from repa.registry import ClassName, class_names_of_dataset
from repa.tensor_file import Extra, Tensors
from samplers import PATHS, PathName

FORMATS = (1, 2, 3)
"""Of descriptions; the second says of latent space or prediction what the first cannot, and the
third how guidance is meant."""

_PIXEL_CHANNELS = 3
_LARGEST = 10_000  # a damaged or hostile file must not make us build for hours
_WHOLE_NUMBERS = ("input_size", "in_channels", "num_classes", *SIT_SIZES["SiT-XL/2"])


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """What network a checkpoint holds (keyword arguments of `SiT`), and for what.

    The interpolant and, if known, the registered name of the data set that it was trained on, what
    its output means, where its input and output live, and which images were held out of training to
    judge it by. Guidance is on the leading `guided_channels` of the velocity; None is all. What
    `sampling` says, by names of `SAMPLED`, is how its authors sample it, where that is not the
    published protocol. Its own `class_names`, by label, are none where there are only numbers, or
    those of the data set. Values may come from a stranger's file.
    """

    model: dict[str, Any]
    path_type: PathName = "linear"
    dataset: str | None = None
    prediction: Prediction = field(default_factory=Prediction)
    latent_space: LatentSpace = PIXELS
    reference: HeldOutReference | None = None
    guided_channels: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.path_type not in PATHS:
            raise ValueError(f"path_type is {self.path_type!r}, not linear, cosine or ddpm")
        if not isinstance(self.dataset, str | None):
            raise ValueError(f"dataset is {self.dataset!r}, not a name")
        for name in _WHOLE_NUMBERS:
            value = self.model.get(name)
            if type(value) is not int or not 1 <= value <= _LARGEST:
                raise ValueError(f"{name} is {value!r}, not a whole number from 1 to {_LARGEST}")
        has, space = self.model["in_channels"], self.latent_space.num_channels
        guided = self.guided_channels
        if guided is not None and (type(guided) is not int or not 1 <= guided <= has):
            raise ValueError(f"guided_channels is {guided!r}, not a whole number from 1 to {has}")
        for name, channels in ("prediction", self.prediction.channels), ("latent_space", space):
            if channels not in (None, has):
                raise ValueError(f"{name} is for {channels} channels and the model has {has}")
        if not all(isinstance(name, str) for name in self.class_names):
            raise ValueError("class_names are not all names")

    @property
    def num_classes(self) -> int:
        """Number of classes, which is also the null label."""
        return self.model["num_classes"]

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The names of all classes by label: its own, or the data set's; none if not so many.

        Raises:
            MissingPackageError: See `repa.registry.class_names_of_dataset`.
        """
        if len(self.class_names) == self.num_classes:
            return tuple(ClassName((name,)) for name in self.class_names)
        known = class_names_of_dataset(self.dataset)
        return known if len(known) == self.num_classes else ()


def settings_from_description(description: Extra, tensors: Tensors) -> CheckpointSettings:
    """Read the description that our trainer writes, or an entry of the registry.

    It has "model" (keyword arguments of `SiT`, perhaps with "size" for a named size), "path_type",
    "dataset", "prediction", "reference", "guided_channels", "sampling", "class_names", and
    "latent_space" or "autoencoder"; other keys are of no account here. The tensors of the state
    dict alone say which projectors are there.

    Raises:
        ValueError: A value is missing or wrong.
        TypeError: A prediction or latent space has an unknown key.
    """
    model = description.get("model")
    if not isinstance(model, dict):
        raise ValueError("the description has no model")
    model = dict(model)
    if (size := model.pop("size", None)) is not None:
        if size not in SIT_SIZES:
            raise ValueError(f"unknown size {size!r}{suggestion(str(size), SIT_SIZES)}")
        model = {**SIT_SIZES[size], **model}
    space, autoencoder = description.get("latent_space"), description.get("autoencoder")
    prediction, reference = description.get("prediction"), description.get("reference")
    if space is not None and autoencoder is not None:
        raise ValueError("the description has both an autoencoder and a latent_space")
    if not isinstance(names := description.get("class_names", []), list):
        raise ValueError("class_names are no list")
    assumed = assumed_latent_space(autoencoder, model.get("in_channels"))
    return CheckpointSettings(
        model={**model, **projectors_of(tensors)},
        path_type=description.get("path_type", "linear"),
        dataset=description.get("dataset"),
        prediction=Prediction() if prediction is None else Prediction(**prediction),
        latent_space=assumed if space is None else LatentSpace(**space),
        reference=None if reference is None else HeldOutReference.from_mapping(reference),
        guided_channels=description.get("guided_channels"),
        sampling=sampling_of(description),
        class_names=tuple(names),
    )


def sampling_of(description: Extra) -> dict[str, Any]:
    """Return what a description says of sampling, as far as it may; lists become tuples.

    What the values may be is checked when they are used.

    Raises:
        ValueError: It is no dict.
    """
    said = description.get("sampling") or {}
    if not isinstance(said, dict):
        raise ValueError(f"sampling is {said!r}, not settings by name")
    known = {name: value for name, value in said.items() if name in SAMPLED}
    return {n: tuple(v) if isinstance(v, list) else v for n, v in known.items()}


def describe(settings: CheckpointSettings) -> dict[str, Any]:
    """Return the description that `settings_from_description` reads, with its format first.

    Format 1, byte for byte what earlier versions wrote and read, wherever it suffices. They would
    overlook a prediction, a latent space or guided channels and make wrong images, so that these
    have format 2 or 3, which they refuse. A reference they may overlook, names of classes, and
    settings of sampling, which are defaults alone.
    """
    described = {key: getattr(settings, key) for key in ("model", "path_type", "dataset")}
    if settings.reference is not None:
        described["reference"] = settings.reference.to_dict()
    if settings.class_names:
        described["class_names"] = list(settings.class_names)
    if settings.sampling:
        described["sampling"] = settings.sampling
    space, prediction = settings.latent_space, settings.prediction
    assumed = assumed_latent_space(space.autoencoder, settings.model["in_channels"])
    guided = settings.guided_channels
    if (space, prediction, guided) == (assumed, Prediction(), None):
        return {"format": 1, **described, "autoencoder": space.autoencoder}
    predicted = {k: v for k, v in asdict(prediction).items() if (k, v) != ("num_times", None)}
    stated = {"latent_space": asdict(space), "prediction": predicted}
    if guided is None:
        return {"format": 2, **described, **stated}
    return {"format": 3, **described, **stated, "guided_channels": guided}


def assumed_latent_space(autoencoder: str | None, in_channels: object) -> LatentSpace:
    """Return the latent space of what names an autoencoder at most: REPA's files, and format 1.

    Three channels without an autoencoder are pixels; all else has Stable Diffusion's scale.
    """
    if autoencoder is None and in_channels == _PIXEL_CHANNELS:
        return PIXELS
    return replace(SD_LATENTS, autoencoder=autoencoder)


def projectors_of(tensors: Tensors) -> dict[str, Any]:
    """Return the arguments of the projectors that are there, maybe none."""
    last = (".4.weight", ".conv.weight")
    outputs = [n for n in tensors if n.startswith("projectors.") and n.endswith(last)]
    outputs.sort(key=lambda name: int(name.split(".")[1]))
    arguments: dict[str, Any] = {"target_dims": [width_of(name, tensors) for name in outputs]}
    if (hidden := "projectors.0.0.weight") in tensors:
        arguments["projector_dim"] = width_of(hidden, tensors)
    if "projectors.0.conv.weight" in tensors:
        arguments["projector"] = "conv"
    return arguments


def width_of(name: str, tensors: Tensors) -> int:
    """Return the outputs of a layer's weight, or the size of a norm's."""
    shape = tuple(tensors[name].shape)
    if not shape or not shape[0]:
        raise ValueError(f"the tensor {name} has the shape {shape}")
    return shape[0]
