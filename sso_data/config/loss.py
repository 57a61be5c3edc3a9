"""Configuration of the training loss, the sequences and the reference log-probs."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sso_data.config.section import NotNegative, Positive, Section, Share

_ALIASES = {"pbaa": "pairs", "sigmoid": "dpo"}


def _without_alias(value: object) -> object:
    return _ALIASES.get(value, value) if isinstance(value, str) else value


PairObjective = Annotated[Literal["sso", "sso-generator", "pairs"], BeforeValidator(_without_alias)]
LossType = Annotated[
    Literal["ipo", "dpo", "hinge", "robust", "simpo", "orpo"], BeforeValidator(_without_alias)
]

_SSO_ONLY = ("alpha", "g", "use_w", "use_g", "detach_weight", "weight_scope", "recipe")


class LossConfig(Section):
    """The loss that the policy is trained with (arXiv 2410.17131)."""

    objective: PairObjective = "sso"
    """`sso`: the base term, and the two steered terms weighted by W; `sso-generator`: the steered
    terms alone, for a model that makes data; `pairs` (also called `pbaa`): the base term alone, on
    any preference pairs."""
    type: LossType = "ipo"
    """The loss of each preference term (the base loss): `ipo`, `simpo` and `orpo` compare means per
    token; `dpo` (also called `sigmoid`), `hinge` and `robust` totals. sso-generator starts from
    `dpo`."""
    beta: Positive = 0.2
    """Strength of the base loss; SimPO's paper uses 2 to 2.5. sso-generator starts from 0.1."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs taken to be the wrong way round (`dpo`: conservative DPO, `robust`)."""
    simpo_gamma: NotNegative = 0.5
    """Margin that `simpo` asks for."""
    alpha: Share = 0.66
    """Share of the chosen response in W."""
    g: NotNegative = 0.1
    """Weight of the two steered terms."""
    use_w: bool = True
    """Weight by W; off is an ablation."""
    use_g: bool = True
    """Use the steered terms; off is an ablation, which leaves W times the base term."""
    detach_weight: bool = False
    """Keep W out of the gradient; with it W*G raises the plain-view likelihood of both responses
    no more."""
    weight_scope: Literal["good_bad", "all"] = "good_bad"
    """What W multiplies: the steered terms, or the base term as well."""
    recipe: Literal["method", "as-published"] = "method"
    """`as-published`: the published code's reading of an ablation; without W the steered terms are
    dropped, too."""
    nll: NotNegative = 0.0
    """Weight of the negative mean log-prob of y+ (and, times g, of the steered preferred
    responses)."""
    generator_nll: NotNegative = 0.1
    """The same for sso-generator's two preferred responses."""

    @model_validator(mode="before")
    @classmethod
    def _generator_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("objective") == "sso-generator":
            return {"type": "dpo", "beta": 0.1} | values
        return values

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> "LossConfig":
        if self.objective != "sso" and (idle := self._set_of(*_SSO_ONLY)):
            raise ValueError(f"{idle[0]} belongs to objective sso, not to {self.objective}")
        if self.label_smoothing and self.type not in {"dpo", "robust"}:
            raise ValueError("label_smoothing belongs to loss.type dpo or robust")
        if self.type != "simpo" and self._set_of("simpo_gamma"):
            raise ValueError("simpo_gamma belongs to loss.type simpo")
        if self.objective != "sso-generator" and self._set_of("generator_nll"):
            raise ValueError("generator_nll belongs to objective sso-generator")
        if self.nll and self.objective == "sso-generator":
            raise ValueError("nll belongs to objective sso or pairs; here it is generator_nll")
        if not self.use_w and (self.detach_weight or self.weight_scope == "all"):
            raise ValueError("detach_weight and weight_scope need use_w")
        return self

    def _set_of(self, *names: str) -> list[str]:
        """Those of the fields that differ from their defaults."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]

    @property
    def needs_reference(self) -> bool:
        """True when the base loss compares with a reference policy."""
        return self.type not in {"simpo", "orpo"}

    @property
    def compares(self) -> Literal["means", "totals"]:
        """What of a sequence the base loss sees: nats/token or nats."""
        return "totals" if self.type in {"dpo", "hinge", "robust"} else "means"


class SequenceConfig(Section):
    """Length limits of the training sequences."""

    max_length: Annotated[int, Field(ge=8)] = 2048
    """Most tokens of prompt and response together."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What happens to a row with a longer sequence. `truncate` cuts the ends of its responses,
    end-of-sequence tokens included (counted and reported), and scores its references again."""


class ReferenceConfig(Section):
    """Where the reference policy's log-probs come from."""

    mode: Literal["auto", "strict", "rescore"] = "auto"
    """`auto`: the rows' own where a check agrees, else scored again; `strict`: the rows' own or
    none; `rescore`: scored again."""
    check_rows: Annotated[int, Field(ge=64)] = 64
    """Rows whose recorded log-probs are compared with this machine's."""
    tolerance: Positive = 0.05
    """Largest difference that is accepted, in what the loss sees: |delta D| in nats/token where it
    compares means, beta*|delta D| where it compares totals; the 95th percentile of each term."""
