"""The configuration of a run: plain values, presets and methods. It does not import torch."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin

import pyro_bayesprune.pruning.registry as names
from pyro_bayesprune._utils.calls import did_you_mean, suggests_fields
from pyro_bayesprune._utils.files import sha256
from pyro_bayesprune.pruning.registry import METHODS, PRESETS, recommended_gate

# These fields were added later. Their default values must not change the ids of older runs.
ADDED = (
    "rounds",
    "rewind_epoch",
    "update",
    "judge",
    "target_column",
    "likelihood",
    "noise",
    "autocast",
)
KINDS: dict[Any, str] = {str: "a text", bool: "true or false", int: "an integer"}
POSITIVE = "prior_scale prior_df noise temperature learning_rate epochs batch_size"
WORDS = {"sparsity": "auto", "noise": "learnt"}  # fields that are a number or this word
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {  # ranges, and the fields that have them
    "in [0, 1)": ("validation sparsity", lambda value: 0 <= value < 1),
    "in (0, 1)": ("alpha", lambda value: 0 < value < 1),
    "at least 0": ("beta", lambda value: value >= 0),
    # The smallest normal number is the limit because training treats denormal numbers as zero.
    "positive": (POSITIVE, lambda value: value >= sys.float_info.min),
}


@suggests_fields
@dataclass(frozen=True)
class Config:
    """All settings that change the result of a run.

    Args:
        dataset: digits, diabetes, mnist, fashion_mnist, cifar10, or the path of a file
            (safetensors, npz or csv).
        target_column: name of the column of targets, if the file is a table: classes, or numbers
            for another likelihood than categorical.
        validation: share of the training set that is held out for validation, in [0, 1).
        data_seed: seed of the choice of the held-out examples.
        network: fcn (paper, eq. 1), cnn (eq. 2), lenet_300_100 or lenet5 (LeCun et al., 1998).
        hidden: widths of the hidden dense layers of fcn and cnn.
        channels: output channels of the two convolutions of cnn.
        likelihood: categorical (classes), bernoulli (labels 0 and 1, one output for each), gaussian
            (real targets) or poisson (counts).
        noise: standard deviation of a gaussian likelihood, in units of the targets (of a table and
            of diabetes: in units of their standard deviation); or learnt, with the prior
            LogNormal(0, 1).
        objective: map (likelihood and prior) or mle (likelihood only).
        prior: prior of every weight and bias; evidence_normal learns its scales by evidence.
        prior_scale: scale of the prior in units of the weights: σ of a normal, gain of
            fan_in_normal, σ of normal_per_datum for 50,000 training examples.
        prior_df: degrees of freedom of a student_t prior.
        temperature: divisor of the log likelihood.
        criterion: what is pruned first: the lowest magnitude, random weights, or magnitudes
            shuffled within each layer (random, but with the layer proportions of magnitude).
        sparsity: target share of prunable weights that are zero, in [0, 1). With auto, the
            evidence decides.
        gate: retain (accept what retains half of the gain in log joint over the empty network,
            otherwise prune less), propose (accept what has a Bayes factor above beta, otherwise
            prune less), previous (Algorithm 1 of the paper) or always.
        beta: threshold of the Bayes factor, on the scale of --per, under the gates propose and
            previous; 0 accepts every candidate.
        per: scale of the Bayes factor: dataset (the exact ratio) or datum (its N-th root).
        scope: prune each layer to the target (layer), all layers together (global), or whole
            units and filters (unit).
        schedule: target over the epochs: constant (paper), cubic (up to 60%), one_shot (at 60%).
        regrow: remove the masks after each step, so that pruned weights may become non-zero.
        evaluation: decide with all training data (full), or with as much as the decision requires
            (sequential).
        alpha: error rate of a sequential decision.
        update: the survivors stay as they are (project), or they move to their posterior mean given
            that the pruned weights are zero (condition).
        judge: judge a candidate that will be projected where it is (project), or where conditioning
            would move it (condition).
        restart: train again with the final masks, from the initial weights (rewind), from new
            weights (reinitialise), or from the initial ones with shuffled masks (shuffle).
        rounds: number of trainings that prune before the last one, each with a restart. All remove
            the same share of the remaining weights (iterative magnitude pruning).
        rewind_epoch: with restart rewind, return to the weights at the end of this epoch.
        epochs: passes over the training data.
        batch_size: examples in a step.
        learning_rate: step size of Adam.
        annealing: reduce the step size to zero over the last 40% of the epochs (paper: no).
        seed: seed of initial weights, data order and random pruning, in separate streams.
        autocast: bf16 computes the network's outputs in bfloat16 in training steps, and everything
            else, also decisions, in full precision.

    Raises:
        ValueError: for a value out of its range; the message names it.
    """

    dataset: str = "digits"
    target_column: str = ""
    validation: float = 0.1
    data_seed: int = 0
    network: names.NetworkName = "fcn"
    hidden: tuple[int, ...] = (512, 512, 512)
    channels: tuple[int, int] = (32, 64)
    likelihood: names.LikelihoodName = "categorical"
    noise: float | Literal["learnt"] = "learnt"
    objective: names.Objective = "map"
    prior: names.PriorName = "normal"
    prior_scale: float = 0.3
    prior_df: float = 3.0
    temperature: float = 1.0
    criterion: names.CriterionName = "magnitude"
    sparsity: float | Literal["auto"] = 0.9
    gate: names.Gate = "propose"
    beta: float = 0.95
    per: names.Per = "datum"
    scope: names.Scope = "layer"
    schedule: names.ScheduleName = "cubic"
    regrow: bool = False
    evaluation: names.Evaluation = "full"
    alpha: float = 0.01
    update: names.Update = "project"
    judge: names.Update = "project"
    restart: names.Restart = "no"
    rounds: int = 1
    rewind_epoch: int = 0
    epochs: int = 25
    batch_size: int = 64
    learning_rate: float = 1e-3
    annealing: bool = True
    seed: int = 0
    autocast: names.Autocast = "none"

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_type(field.name, field.type)
        for condition, (fields_in_range, is_valid) in RANGES.items():
            for name in fields_in_range.split():
                value = getattr(self, name)
                if value != WORDS.get(name) and not is_valid(value):
                    raise ValueError(f"{name} must be {condition}, got {value!r}")
        if self.noise != "learnt" and self.likelihood != "gaussian":
            raise ValueError(f"noise is for the likelihood gaussian, got {self.likelihood}")
        restarts = self.restart != "no" and self.sparsity != "auto"
        if self.rounds < 1 or (self.rounds > 1 and not restarts):
            raise ValueError(
                f"rounds must be 1, or more with a restart and a numeric sparsity; got "
                f"{self.rounds} with restart {self.restart} and sparsity {self.sparsity}"
            )
        if not 0 <= self.rewind_epoch <= (self.epochs if self.restart == "rewind" else 0):
            raise ValueError(
                f"rewind_epoch must be from 0 to epochs, and 0 unless restart is rewind; got "
                f"{self.rewind_epoch} with restart {self.restart} and {self.epochs} epochs"
            )

    def _check_type(self, name: str, kind: Any) -> None:  # noqa: ANN401
        """Check the type of a field, and convert a number to float."""
        value = getattr(self, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            choices = ", ".join(get_args(kind))
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        if get_origin(kind) is tuple:
            valid = isinstance(value, tuple) and all(type(w) is int and w > 0 for w in value)
            if not valid or (name == "channels" and len(value) != 2):
                raise ValueError(f"{name} must be positive integers, got {value!r}")
        is_bool = isinstance(value, bool)
        if kind in KINDS and (not isinstance(value, kind) or (kind is int and is_bool)):
            raise ValueError(f"{name} must be {KINDS[kind]}, got {value!r}")
        if kind is float or (name in WORDS and value != WORDS[name]):
            numeric = isinstance(value, (int, float)) and not is_bool
            if not numeric or not abs(value) <= sys.float_info.max:
                raise ValueError(f"{name} must be a finite number, got {value!r}")
            # 1 and 1.0, and 0.0 and -0.0, must give the same id.
            object.__setattr__(self, name, float(value) + 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return asdict(self) | {"hidden": list(self.hidden), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Return the configuration of JSON values.

        Raises:
            ValueError: for an unknown name or a value out of its range.
        """
        known = sorted(cls.__dataclass_fields__)
        unknown = sorted(map(str, set(values).difference(known)))
        if unknown:
            hint = did_you_mean(unknown[0], known)
            raise ValueError(f"unknown settings {unknown}; there are {known}{hint}")
        tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples})

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the canonical JSON.

        Fields in `ADDED` are included only if they differ from their default.
        """
        unchanged = [name for name in ADDED if getattr(self, name) == getattr(Config, name)]
        values = {name: v for name, v in self.to_dict().items() if name not in unchanged}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return sha256(text.encode())[:16]

    @property
    def title(self) -> str:
        """A short description of the run."""
        return f"{self.dataset} {self.network} {self.method} {self.sparsity} #{self.seed}"

    @property
    def method(self) -> str:
        """The paper's method with these settings, ``default``, or ``custom``."""
        gate = recommended_gate(self.sparsity, self.evaluation)
        default = PRESETS["default"] | {"gate": gate, "regrow": False, "restart": "no"}
        for name, expansion in (METHODS | {"default": default}).items():
            matches = all(getattr(self, key) == value for key, value in expansion.items())
            if matches and (self.sparsity or "sparsity" in expansion):
                return name
        return "custom"


def configure(preset: str = "default", method: str | None = None, **settings: Any) -> Config:  # noqa: ANN401
    """Return a configuration from a preset, a method and single settings, in this order.

    Args:
        preset: ``default`` (recommended) or ``paper`` (the settings of the paper).
        method: one of the paper's methods, which stands for several settings.
        **settings: fields of `Config`.

    Raises:
        ValueError: for unknown names, values out of range, or a setting that the method determines.

    Example:
        >>> configure("paper", "magnitude", sparsity=0.99).objective
        'mle'
    """
    for kind, name, known in (("preset", preset, PRESETS), ("method", method, METHODS)):
        if name not in list(known) and (kind, name) != ("method", None):  # names may be unhashable
            raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}")
    expansion = METHODS[method] if method else {}
    both = ", ".join(sorted(set(expansion) & set(settings)))
    if both:
        raise ValueError(f"the method {method!r} decides {both}: specify one of them, not both")
    values = PRESETS[preset] | expansion | settings
    gate = recommended_gate(values.get("sparsity", Config.sparsity), values.get("evaluation", ""))
    return Config.from_dict({"gate": gate} | values)
