"""The configuration of a run: plain values, presets, methods. Imports nothing heavy."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from pyro_bayesprune._utils.files import sha256
from pyro_bayesprune.pruning.registry import (
    METHODS,
    PRESETS,
    CriterionName,
    Evaluation,
    Gate,
    NetworkName,
    Objective,
    Per,
    PriorName,
    Restart,
    ScheduleName,
    Scope,
)

ADDED = ("rounds", "rewind_epoch")  # younger than stored results, whose ids they must not change


@dataclass(frozen=True)
class Config:
    """Everything that changes a run's result.

    Args:
        dataset: digits, mnist, fashion_mnist, cifar10, or the path of a data file.
        validation: share of the training set that is held out for validation, in [0, 1).
        data_seed: decides which examples are held out.
        network: fcn (paper, eq. 1), cnn (eq. 2), lenet_300_100 or lenet5 (LeCun et al., 1998).
        hidden: widths of the hidden dense layers of fcn and cnn.
        channels: output channels of the cnn's two convolutions.
        objective: map (likelihood and prior) or mle (likelihood alone).
        prior: prior of every weight and bias; evidence_normal learns its scales by evidence.
        prior_scale: scale of the prior (σ of a normal, gain of fan_in_normal), units of weights.
        prior_df: degrees of freedom of a student_t prior.
        temperature: divides the log likelihood.
        criterion: what is pruned first: the lowest magnitude, random weights, or magnitudes
            shuffled within each layer (random, but with magnitude's layer proportions).
        sparsity: target share of prunable weights that are zero, in [0, 1); auto lets the evidence
            decide.
        gate: propose (compare, then keep or back off), previous (paper's Algorithm 1) or always.
        beta: threshold of the Bayes factor on the scale of --per; 0 lets everything pass.
        per: scale of the Bayes factor: dataset (the exact ratio) or datum (its N-th root).
        scope: prune each layer to the target, all layers together (global), or whole units and
            filters (unit).
        schedule: target over the epochs: constant (paper), cubic (up to 60%), one_shot (at 60%).
        regrow: lift the masks after each step, so that weights may come back.
        evaluation: decide on the full training data, or on as much as the decision needs
            (sequential).
        alpha: error rate of a sequential decision.
        restart: train as long again under the final masks, from the first weights (rewind), from
            fresh ones (reinitialise), or from the first under shuffled masks (shuffle).
        rounds: trainings that prune before the last one, each restarted; all remove the same
            share of what is left (iterated magnitude pruning).
        rewind_epoch: with restart rewind, return to the weights at the end of this epoch.
        epochs: passes over the training data.
        batch_size: examples a step.
        learning_rate: Adam's step size.
        annealing: let the step size fall to zero over the last 40% of the epochs (paper: no).
        seed: of initial weights, data order and random pruning (streams of their own).

    Raises:
        ValueError: for a value out of its range; the message names it.
    """

    dataset: str = "digits"
    validation: float = 0.1
    data_seed: int = 0
    network: NetworkName = "fcn"
    hidden: tuple[int, ...] = (512, 512, 512)
    channels: tuple[int, int] = (32, 64)
    objective: Objective = "map"
    prior: PriorName = "normal"
    prior_scale: float = 0.3
    prior_df: float = 3.0
    temperature: float = 1.0
    criterion: CriterionName = "magnitude"
    sparsity: float | Literal["auto"] = 0.9
    gate: Gate = "propose"
    beta: float = 0.95
    per: Per = "datum"
    scope: Scope = "layer"
    schedule: ScheduleName = "cubic"
    regrow: bool = False
    evaluation: Evaluation = "full"
    alpha: float = 0.01
    restart: Restart = "no"
    rounds: int = 1
    rewind_epoch: int = 0
    epochs: int = 25
    batch_size: int = 64
    learning_rate: float = 1e-3
    annealing: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            choices = get_args(field.type) if str(field.type).startswith("typing.Literal") else ()
            value = getattr(self, field.name)
            if choices and value not in choices:
                raise ValueError(f"{field.name} must be one of {', '.join(choices)}, got {value!r}")
            if field.type in (str, bool) and not isinstance(value, field.type):
                kind = {str: "a text", bool: "true or false"}[field.type]
                raise ValueError(f"{field.name} must be {kind}, got {value!r}")
            if field.type is float:
                self._set_number(field.name, value)
            if field.type is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{field.name} must be an integer, got {value!r}")
        if self.sparsity != "auto":
            self._set_number("sparsity", self.sparsity)
        for name in ("validation", "sparsity"):
            value = getattr(self, name)
            if value != "auto" and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value!r}")
        numbers = ("prior_scale", "prior_df", "temperature", "learning_rate")
        for name in (*numbers, "epochs", "batch_size"):
            if not getattr(self, name) >= sys.float_info.min:  # training flushes denormals to zero
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha!r}")
        if self.beta < 0:
            raise ValueError(f"beta must be at least 0, got {self.beta!r}")
        for name in ("hidden", "channels"):
            _check_widths(name, getattr(self, name))
        self._check_rounds()

    def _check_rounds(self) -> None:
        if self.rounds < 1 or (
            self.rounds > 1 and (self.restart == "no" or self.sparsity == "auto")
        ):
            raise ValueError(
                f"rounds must be 1, or more with a restart and a sparsity that is a number; got "
                f"{self.rounds} with restart {self.restart} and sparsity {self.sparsity}"
            )
        last = self.epochs if self.restart == "rewind" else 0
        if not 0 <= self.rewind_epoch <= last:
            raise ValueError(
                f"rewind_epoch must be from 0 to epochs, and 0 unless restart is rewind; got "
                f"{self.rewind_epoch} with restart {self.restart} and {self.epochs} epochs"
            )

    def _set_number(self, name: str, value: object) -> None:
        """Make a number a float: 1, 1.0 and a negative zero's 0.0 are to have one id."""
        _check_number(name, value)
        object.__setattr__(self, name, float(value) + 0.0)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        values = asdict(self)
        return values | {"hidden": list(self.hidden), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Return the configuration of JSON values.

        Raises:
            ValueError: for an unknown name or a value out of its range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(str, set(values) - known))
        if unknown:
            raise ValueError(f"unknown settings {unknown}; there are {sorted(known)}")
        lists = {n: v for n, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **{name: tuple(value) for name, value in lists.items()}})

    @property
    def id(self) -> str:
        """Name of the run: the first 16 hexadecimal digits of the SHA-256 of its canonical JSON.

        Fields in `ADDED` count only where they differ from their default.
        """
        defaults = {field.name: field.default for field in fields(self) if field.name in ADDED}
        values = {k: v for k, v in self.to_dict().items() if k not in ADDED or v != defaults[k]}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return sha256(text.encode())[:16]

    @property
    def title(self) -> str:
        """What runs, in a few words."""
        return f"{self.dataset} {self.network} {self.method} {self.sparsity} #{self.seed}"

    @property
    def method(self) -> str:
        """Name of the paper's method that the configuration is, or ``custom``."""
        for name, expansion in METHODS.items():
            if all(getattr(self, key) == value for key, value in expansion.items()):
                if self.sparsity or "sparsity" in expansion:
                    return name
        return "custom"


def _check_number(name: str, value: object) -> None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def _check_widths(name: str, widths: object) -> None:
    fine = isinstance(widths, tuple) and all(type(w) is int and w > 0 for w in widths)
    if not fine or (name == "channels" and len(widths) != 2):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be positive integers, got {widths!r}")


def configure(
    preset: str = "default",
    method: str | None = None,
    **settings: Any,  # noqa: ANN401
) -> Config:
    """Return a configuration: a preset, then a method's expansion, then single settings.

    Args:
        preset: ``default`` (what we recommend) or ``paper`` (what the paper did).
        method: one of the paper's names; expands before the configuration is hashed.
        **settings: fields of `Config`.

    Raises:
        ValueError: for unknown names, values out of range, or a setting that the method decides.

    Example:
        >>> configure("paper", "magnitude", sparsity=0.99).objective
        'mle'
    """
    if preset not in list(PRESETS):  # of a file's list, too: it has no hash
        raise ValueError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if method is not None and method not in list(METHODS):
        raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
    expansion = METHODS[method] if method else {}
    both = sorted(set(expansion) & set(settings))
    if both:
        raise ValueError(
            f"the method {method!r} decides {', '.join(both)}: give the method or these, not both"
        )
    return Config.from_dict(PRESETS[preset] | expansion | settings)
