"""Settings of sampling, validated; the defaults are the published protocol. No torch.

A model in the registry may have defaults of its own: `for_model` takes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args

from repa.autoencoders.pixels import Quantizer
from repa.checkpoints.names import DialectName
from repa.errors import CheckpointFormatError, SettingError, suggestion
from repa.generation.defaults import defaults_of
from repa.generation.solvers import (
    SOLVERS,
    Times,
    check_fast,
    check_order,
    check_times,
    fast_settings,
)
from repa.registry import default_checkpoint, entry_names
from repa_base.settings import check_settings, flag_of, setting
from samplers.names import (
    ADAPTIVE_METHODS,
    EXPONENTIAL_ORDER,
    EXPONENTIAL_ORDERS,
    ODE_METHODS,
    GridName,
)

LabelScheme = Literal["random", "balanced"]
RandomNumbers = Literal["image", "reference"]
GuidanceName = Literal["cfg", "cfg-zero", "apg"]
Precision = Literal["fp32", "bf16", "fp16"]

HINTS = ("dialect", "num_heads", "encoder_depth", "latents")
"""Settings that say of a checkpoint what its file does not tell; see `load_model`."""

GUIDE_HINTS = ("dialect", "num_heads", "latents")
"""Those that count for a guide's file too, where it does not tell; its middle head is not asked."""

SCALES = {"guidance_interval": "cfg_scale", "internal_interval": "internal_scale"}
"""By the interval of a guidance, its strength, of which 1 turns it off."""

FOUND_AGAIN = ("model", "guide", "autoencoder", "latents")
"""Settings that name files, which may be elsewhere when a run is repeated."""

REFERENCE_SOLVERS = ("sde", "euler", "heun")
"""Those that REPA's own script has, and so its random numbers."""


def _check_whole(name: str, value: object) -> None:
    """Raise SettingError unless the value of a setting is a whole number from 1."""
    if type(value) is not int or value < 1:
        raise SettingError(name, f"{name} must be a whole number from 1, got {value!r}.")


def _numbers_of(
    labels: tuple[int | str, ...], model: str | Path, said: dict[str, Any]
) -> tuple[int, ...]:
    """Return classes by their numbers, given some by names; a name may be a mistyped scheme."""
    from repa.checkpoints.classes import labels_called

    try:
        return labels_called(labels, model, **said)
    except SettingError:
        schemes = get_args(LabelScheme)
        if len(labels) == 1 and get_close_matches(str(labels[0]), schemes):
            hint = suggestion(str(labels[0]), schemes)
            raise SettingError("labels", f"unknown labels {labels[0]!r}{hint}") from None
        raise


def _check_effects(given: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise SettingError if an interval is given of guidance that is off, and nobody said so."""
    for name, scale in SCALES.items():
        off = scale not in given and settings.get(scale, getattr(Protocol, scale)) == 1
        if name in given and off:
            flag = flag_of(Protocol, scale)
            reason = f"changes nothing where {scale} is 1: leave it out, or give {flag} above 1"
            raise SettingError(name, f"{name} {reason}.")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What decides image i of a checkpoint. The defaults are REPA's published protocol.

    Raises:
        SettingError: A value is out of its range or of its choices.
    """

    num_steps: int = setting(
        "Steps of the solver; adaptive solvers choose their own.",
        250,
        low=1,
        high=10_000,  # its cost is counted by running the solver on one number, in a few seconds
        flag="--steps",
    )
    cfg_scale: float = setting(
        "Strength of guidance, away from the network without a class or from --guide; 1 turns it "
        "off.",
        1.8,
        low=1,
        flag="--cfg",
    )
    guidance_interval: tuple[float, float] = setting(
        "Times with guidance, both ends included: 0 is the image, 1 the noise, "
        "0 <= LOW <= HIGH <= 1.",
        (0.0, 0.7),
        flag="--interval",
        value="LOW,HIGH",
    )
    guidance: GuidanceName = setting(
        "Kind of guidance: cfg is the published one, cfg-zero CFG-Zero* (scaled negative; above "
        "t = 0.96, if the interval reaches so far, no velocity: the ODE stands still by euler, "
        "dpm++, ab2 and ab4, an SDE does not), apg adaptive projected guidance.",
        "cfg",
        choices=GuidanceName,
        value="|".join(get_args(GuidanceName)),
    )
    apg_parallel: float = setting(
        "Of apg: how much of the guidance along the velocity itself stays.", 0.0, low=0, high=1
    )
    apg_bound: float = setting(
        "Of apg: longest guidance of an image, by the 2-norm; 0 is no bound.", 0.0, low=0
    )
    apg_momentum: float = setting(
        "Of apg: how much of the guidance before is added; published are negative numbers.",
        0.0,
        low=-0.99,
        high=0.99,
    )
    internal_scale: float = setting(
        "Strength of guidance by the network's own middle head, if it has one, at no more network "
        "rows; 1 turns it off.",
        1.0,
        low=1,
        flag="--ig",
    )
    internal_interval: tuple[float, float] = setting(
        "Times with that guidance, both ends included.",
        (0.0, 1.0),
        flag="--ig-interval",
        value="LOW,HIGH",
    )
    solver: str = setting(
        "sde is Euler-Maruyama, ddpm is for networks that predict noise. For few steps: dpm++, ab2 "
        "and ab4 on the ODE, dpm++sde, and sa on the SDE of sde. The others solve the ODE: "
        f"{', '.join(ODE_METHODS)}.",
        "sde",
        choices=SOLVERS,
        value="NAME",
    )
    order: int | None = setting(
        f"Of {', '.join(f'{name} (1 to {most})' for name, most in EXPONENTIAL_ORDERS.items())}.  "
        f"[default: {EXPONENTIAL_ORDER}]",
        None,
        value="N",
    )
    times: Times = setting(
        "Times of the steps: published is equal steps to 0, for SDEs to 0.04 and then 0; uniform, "
        "shifted (--shift), logsnr, karras, or a list such as 1,0.8,0.5,0.2,0.",
        "published",
        choices=GridName,
        value="NAME|LIST",
    )
    shift: float = setting(
        "Of shifted times, t to S t / (1 + (S - 1) t): below 1 more of them are near the image.",
        1.0,
        above=0,
        value="S",
    )
    seed: int = setting(
        "Decides, with an image's number, its class and its noise.", 0, low=0, high=(1 << 63) - 1
    )
    batch_size: int = setting(
        "Images at a time (and process); bounds the memory. A run that goes on keeps its own.",
        64,
        low=1,
    )
    labels: LabelScheme | tuple[int, ...] = setting(
        "Classes: random, balanced (each in turn), or a list such as 0,7,golden retriever to go "
        "round, by numbers or by names where those are known.",
        "random",
        choices=LabelScheme,
        value="random|balanced|LIST",
    )
    quantizer: Quantizer = setting(
        "Pixels to uint8: truncate (REPA) or round (DiT, SiT).",
        "truncate",
        choices=Quantizer,
        value="|".join(get_args(Quantizer)),
    )
    rng: RandomNumbers = setting(
        "Whose random numbers: each image's own, or REPA's of its processes, on a GPU image by "
        "image those of its generate.py with as many processes (--world-size) and images at a time "
        "(--batch-size).",
        "image",
        choices=RandomNumbers,
        value="image|reference",
    )
    world_size: int | None = setting(
        "Processes (GPUs) of the run of REPA that --rng reference reproduces.", None, value="N"
    )
    precision: Precision = setting(
        "Of attention and MLPs, most of the work; all else stays float32. fp16 needs a GPU; "
        "bf16 is slower than fp32 on a CPU without instructions for it.",
        "fp32",
        choices=Precision,
        value="|".join(get_args(Precision)),
    )
    compile: bool = setting(
        "Compile the blocks: faster steps after a minute, of other last digits.", False
    )
    tf32: bool = setting("TF32 products and convolutions on a GPU, as in the reference.", True)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("guidance_interval", "internal_interval"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                rule = f"LOW,HIGH with 0 <= LOW <= HIGH <= 1, got {low:g},{high:g}"
                raise SettingError(name, f"{name} must be {rule}.")
        self._check_guidance()
        check_order(self.solver, self.order)
        check_times(self.solver, self.times, self.shift, self.num_steps)
        labels = () if isinstance(self.labels, str) else self.labels
        if names := [label for label in labels if isinstance(label, str)]:
            rule = f"numbers here, got {names[0]!r}: for_model knows the names of a model's classes"
            raise SettingError("labels", f"labels must be {rule}.")
        if labels is self.labels and not (labels and min(labels) >= 0):
            rule = f"one or more classes from 0, got {list(labels)}"
            raise SettingError("labels", f"labels must be {rule}.")
        self._check_rng()

    def _check_guidance(self) -> None:
        """Raise SettingError unless the settings of guidance go together."""
        for name in ("apg_parallel", "apg_bound", "apg_momentum"):
            if getattr(self, name) and self.guidance != "apg":
                raise SettingError(name, f"{name} is of guidance apg alone.")
        if self.guidance != "cfg" and self.solver == "ddpm":
            raise SettingError("guidance", f"guidance {self.guidance} is of velocities, not ddpm.")
        if self.guidance != "cfg" and self.cfg_scale == 1:
            reason = "changes nothing where cfg_scale is 1"
            raise SettingError("guidance", f"guidance {self.guidance} {reason}: give --cfg.")

    def _check_rng(self) -> None:
        """Raise SettingError unless the other settings suit the random numbers."""
        world = self.world_size
        if world is not None:
            _check_whole("world_size", world)
        if self.rng != "reference":
            if world is not None:
                raise SettingError("world_size", "world_size is of rng reference alone.")
            return
        if world is None:
            rule = "how many processes (GPUs) the run of REPA had"
            raise SettingError("world_size", f"world_size must be said with rng reference: {rule}.")
        if self.seed * world + world > 1 << 64:
            rule = "below 2**64 with rng reference, for every process"
            raise SettingError("seed", f"seed * world_size + rank must be {rule}.")
        if self.labels != "random":
            got = self.labels if isinstance(self.labels, str) else list(self.labels)
            rule = f"random with rng reference, which draws them, got {got}"
            raise SettingError("labels", f"labels must be {rule}.")
        if self.solver not in REFERENCE_SOLVERS:
            rule = f"one of {', '.join(REFERENCE_SOLVERS)} with rng reference, as in REPA"
            raise SettingError("solver", f"solver must be {rule}, got {self.solver}.")
        if self.times != "published":
            raise SettingError("times", "times must be the published ones with rng reference.")

    @classmethod
    def for_model(
        cls,
        model: str | Path = default_checkpoint(),
        *,
        fast: bool = False,
        **given: Any,  # noqa: ANN401
    ) -> Self:
        """Return the settings that are given, and for the others the model's own defaults.

        The published protocol's where it has none; see `repa.generation.defaults.defaults_of`.

        Args:
            model: Registered name, file, or folder of a training run.
            fast: Whether solver and times are those of `repa.generation.solvers.FAST`, and its
                steps unless they are given.
            given: Values by the names of the fields, and what is said of the file, see `HINTS`;
                `labels` may name classes of the model, which become their numbers.

        Raises:
            SettingError: A value is out of its range or of its choices.
            RepaError: The model's file cannot be read, see `repa.checkpoints.read_checkpoint`.
        """
        known = {field.name for field in fields(cls)}
        named: dict[str, Any] = {"model": model} if "model" in known else {}
        if isinstance(given.get("times"), tuple):
            given = {"num_steps": max(len(given["times"]) - 1, 1), **given}
        given = fast_settings(given) if fast else given
        said = {name: given[name] for name in HINTS if given.get(name) is not None}
        own_fields = {k: v for k, v in given.items() if k in known or k not in HINTS}
        labels = given.get("labels")
        if isinstance(labels, tuple) and any(isinstance(label, str) for label in labels):
            own_fields["labels"] = _numbers_of(labels, model, said)
        settings = cls(**own_fields, **named)
        own = defaults_of(model, **said)
        if fast:
            check_fast(own.path_type)
        taken = {k: v for k, v in own.values.items() if k in known and k not in given}
        _check_effects(given, own_fields | taken)
        try:
            return replace(settings, **taken)
        except (SettingError, TypeError, ValueError) as error:
            if own.dialect != "ours":
                raise
            raise CheckpointFormatError(f"{model}: its settings of sampling: {error}") from error

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.solver in ADAPTIVE_METHODS


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Protocol):
    """A protocol, and which images of which checkpoint it makes, and where they go."""

    model: str = setting(
        "Checkpoint: a name that `repa models` lists, such as digits, a file, or the folder of a "
        "training run. A name comes before a file of that name, which is written ./NAME.",
        default_checkpoint(),
        value="NAME|PATH",
    )
    num_images: int = setting(
        "Images to make. Published numbers are of 50,000.", 50_000, low=1, flag="--num"
    )
    autoencoder: str | None = setting(
        f"Decoder of latents: a name ({', '.join(entry_names('autoencoders'))}), a folder of an "
        "AutoencoderKL, or a file of one in the names of latent-diffusion; a name comes before a "
        "path of that name, which is written ./NAME.  [default: the checkpoint's]",
        None,
        value="NAME|PATH",
    )
    guide: str | None = setting(
        "Checkpoint to be guided away from instead of the network without a class (autoguidance): "
        "a worse one of the same data, such as an earlier one of the same run. --dialect, "
        "--num-heads and --latents are said of its file too, where that does not tell.",
        None,
        value="NAME|PATH",
    )
    dialect: DialectName | None = setting(
        "Whose form the checkpoint's file has, where it does not tell: {choices}.",
        None,
        choices=DialectName,
        value="NAME",
    )
    num_heads: int | None = setting(
        "Attention heads, of a file that does not tell them and has no published width.",
        None,
        value="N",
    )
    encoder_depth: int | None = setting(
        "Block after which a file's features or middle head are, where it does not tell.",
        None,
        value="N",
    )
    latents: str | None = setting(
        "Latent space, of a file that does not tell it: an autoencoder's name, or statistics, the "
        f"name ({', '.join(entry_names('latents'))}) or a file of latents_scale and latents_bias.",
        None,
        value="NAME|FILE",
    )
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    out: Path = setting("The NPZ to write; a run that was killed goes on.", Path("samples.npz"))
    overwrite: bool = False
    """Whether an output made by other settings may be replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out.suffix != ".npz":
            raise SettingError("out", f"out must be a file name that ends in .npz, got {self.out}.")
        for name in ("num_heads", "encoder_depth"):
            if (value := getattr(self, name)) is not None:
                _check_whole(name, value)

    @property
    def hints(self) -> dict[str, Any]:
        """What is said of the checkpoint: keyword arguments of `read_checkpoint`."""
        return {name: getattr(self, name) for name in HINTS}
