"""The groups of settings: every setting with its type, its default and what it does; each default stands here alone."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

NetName = Literal["linear", "mlp", "conv"]
EncoderName = Literal["linear", "mlp", "conv", "recurrent", "transformer"]
DecoderName = Literal["linear", "mlp", "conv", "pixel_cnn", "recurrent", "transformer"]
PosteriorName = Literal[
    "diagonal", "full", "iaf", "coupling", "spline", "vmf", "delta", "vq", "residual_vq", "fsq", "gumbel"
]
PriorName = Literal["auto", "standard", "mixture", "vamp", "exemplar", "flow", "sphere", "uniform"]
LikelihoodName = Literal[
    "auto",
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "laplace",
    "student_t",
    "categorical",
    "logistic_mixture",
    "beta_binomial",
    "poisson",
    "negative_binomial",
    "zero_inflated_negative_binomial",
    "multinomial",
    "tokens",
    "mixed",
]
ObjectiveName = Literal[
    "elbo", "iwae", "miwae", "ciwae", "dreg", "beta_tc", "factor", "dip_i", "dip_ii", "info", "wae", "wae_gan"
]
WASSERSTEIN = ("wae", "wae_gan")  # objectives that hold q(z) at the prior, and no single q(z|x)
Part = Literal["encoder", "prior", "decoder"]


def _no_bool(value: Any) -> Any:
    """YAML reads `no` and `on` as booleans, and Python counts True as 1: refuse both where a number belongs."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not a truth value")
    return value


def _as_list(value: Any) -> Any:
    """A single width stands for a list of one."""
    return (value,) if isinstance(value, int) else value


def _device_name(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


def _as_names(value: Any) -> Any:
    """A single name stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _as_condition(value: Any) -> Any:
    """The words labels and array as they are; otherwise names of columns, of which a single one may stand alone."""
    if value is None or (isinstance(value, str) and value in ("labels", "array")):
        return value
    names = _as_names(value)
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("must be labels, array, or the names of one or more columns")
    if len(set(names)) < len(names):
        raise ValueError("names a column twice")
    return tuple(names)


Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Layer = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=65536)]
Layers = Annotated[tuple[Layer, ...], BeforeValidator(_as_list)]


class Section(BaseModel):
    """A frozen group of settings: unknown keys, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class Named(Section):
    """A section that may be given as the bare name of what it selects: `likelihood=bernoulli`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class DataConfig(Section):
    """Where rows come from, how they are split, and how they are scaled."""

    source: str | None = Field(None, description="path or name of the data; set by the command")
    key: str | None = Field(None, description="which array of an npz file, or layer of an h5ad file")
    genes: Literal["variable", "all"] = Field(
        "variable", description="of an h5ad file: those marked as highly variable, where some are, or all"
    )
    data_dir: str | None = Field(None, description="folder with local copies of downloadable data sets")
    held_out: Float = Field(0.1, gt=0, lt=1, description="share of rows held out where the data brings no test set")
    scale: Literal["auto", "none", "unit", "standardize"] = Field(
        "auto", description="auto lets the likelihood decide; unit maps the known range to [0, 1]"
    )
    binarize: Literal["none", "threshold", "dynamic"] = Field(
        "none", description="dynamic draws every value anew as a Bernoulli with that probability"
    )
    condition: Annotated[Literal["labels", "array"] | tuple[str, ...] | None, BeforeValidator(_as_condition)] = Field(
        None, description="what is given beside a row: labels, the data's array condition, or names of columns"
    )
    labelled: Int | None = Field(None, ge=1, description="training rows that keep their label; None: all")
    kinds: dict[str, Literal["number", "category", "count"]] | None = Field(
        None, description="kinds of a table's columns, where the choice from the data is not wanted"
    )
    text_column: str | None = Field(None, description="the column of a table that holds strings to learn")
    window: Literal["auto"] | Annotated[int, BeforeValidator(_no_bool), Field(ge=2, le=65536)] | None = Field(
        None, description="points of the windows that a time series is cut into; auto: by its length; None: no series"
    )
    timestamp: str | None = Field(None, description="a series' column of times; None: the first that looks so")
    missing: Literal["auto", "model", "refuse"] = Field(
        "auto", description="missing entries: left out of the likelihood, or refused; auto models those of tables"
    )
    mask_model: Literal["none", "self", "above", "below"] = Field(
        "none", description="whether a value is missing because of itself; above: large ones are missing more often"
    )

    @property
    def reading(self) -> dict[str, Any]:
        """What says which part of the source is read."""
        return {
            name: getattr(self, name) for name in ("key", "data_dir", "text_column", "genes", "window", "timestamp")
        }


class ModelConfig(Section):
    """The encoder, the posterior's head and the decoder."""

    latent: Int | None = Field(None, ge=1, le=65536, description="latent dimensions; None: from the data's size")
    encoder: EncoderName | None = Field(
        None, description="None: conv for images of more than 1024 entries, recurrent for strings, else mlp"
    )
    decoder: DecoderName | None = Field(None, description="None: the same kind as the encoder")
    hidden: Layers = Field((256, 256), description="widths of the MLP encoder's layers")
    decoder_hidden: Layers | None = Field(None, description="None: the encoder's widths, mirrored")
    channels: Layers = Field((32, 64, 128), description="channels of the convolutional blocks")
    activation: Literal["relu", "leaky_relu", "silu", "gelu", "tanh"] = "silu"
    norm: Literal["none", "batch", "layer"] = "none"
    dropout: Float = Field(0.0, ge=0, lt=1)
    posterior: PosteriorName = Field("diagonal", description="family of q(z|x)")
    flow_steps: Int = Field(2, ge=1, le=64, description="transformations of a posterior flow")
    flow_hidden: Layers = Field((128, 128), description="widths of the networks in a posterior flow")
    groups: Layers | None = Field(
        None, description="latent sizes of a hierarchy, from the top down; None: no hierarchy"
    )
    ladder: bool = Field(True, description="hierarchy: a deterministic path down, skips and residual cells")
    condition_on: Annotated[tuple[Part, ...], BeforeValidator(_as_names)] = Field(
        ("encoder", "decoder"), description="parts that read data.condition, where there is one"
    )
    missing_labels: Literal["refuse", "marginal", "gumbel"] = Field(
        "refuse", description="labels that are not known: refused, summed over, or drawn by Gumbel-softmax"
    )
    classifier_weight: Float = Field(
        0.1,
        ge=0,
        description="weight of known labels' mean cross-entropy, times rows / known rows; the paper has no such ratio",
    )
    codebook: Int = Field(128, ge=2, le=65536, description="entries of a codebook, or classes of a Gumbel code")
    code_size: Int = Field(16, ge=1, le=4096, description="dimensions of a codebook's entry")
    code_levels: Layers = Field((8, 5, 5), description="levels of each dimension of an FSQ code")
    quantizers: Int = Field(4, ge=1, le=64, description="codebooks of a residual quantiser")
    commitment: Float = Field(0.25, ge=0, description="weight that keeps an encoder near its codes")
    temperature: Float = Field(
        0.5, gt=0, description="of Gumbel-softmax: of codes at the end of training, of missing labels throughout"
    )
    embedding: Int = Field(64, ge=1, le=65536, description="width of a token's embedding")
    layers: Int = Field(2, ge=1, le=64, description="layers of a recurrent, transformer or PixelCNN network")
    width: Int = Field(64, ge=1, le=65536, description="channels or hidden units of such a network's layer")
    word_dropout: Float = Field(0.0, ge=0, le=1, description="share of tokens or pixels hidden from such a decoder")
    scale: Literal["log_variance", "softplus"] = Field("log_variance", description="how the head sets the scale")
    init: Literal["fan", "pytorch"] = Field(
        "fan", description="fan: Xavier for linear layers, He for convolutions, log-variance bias -1"
    )


class PriorConfig(Named):
    """The distribution p(z)."""

    name: PriorName = Field(
        "auto", description="auto: standard, or what the posterior needs: sphere for vmf, uniform for codes"
    )
    components: Int = Field(100, ge=1, le=65536, description="of a mixture; pseudo-inputs; exemplars")
    steps: Int = Field(4, ge=1, le=64, description="transformations of a flow")
    hidden: Layers = Field((128, 128), description="widths of the networks in a flow, or in p(z|c)")
    after: Literal["none", "gmm", "flow", "two_stage", "autoregressive"] = Field(
        "none", description="what replaces the prior after training, fitted to the aggregate posterior"
    )
    after_steps: Int = Field(3000, ge=1, le=10**9, description="steps of that fit")


class LikelihoodConfig(Named):
    """The distribution p(x|z)."""

    name: LikelihoodName = Field("auto", description="auto chooses from the data, and says why")
    noise: Literal["shared", "fixed", "feature", "pixel", "optimal"] = Field(
        "shared",
        description="width of a density: one learned, a fixed one, one learned for each entry, one per entry from z, "
        "or the closed form",
    )
    sigma: Float = Field(1.0, gt=0, description="the fixed noise, and the start of the learned shared one")
    floor: Float = Field(
        0.0, ge=0, description="noise=feature: the least deviation, on the model's scale; 0.1 keeps odd columns tame"
    )
    components: Int = Field(5, ge=1, le=256, description="of a logistic mixture")
    levels: Int = Field(256, ge=2, le=65536, description="whole numbers from 0 that an entry can be")
    library: Literal["none", "observed"] = Field(
        "none", description="negative binomial: means of their own, or shares of the row's total, which is then given"
    )
    dispersion: Literal["entry", "column"] = Field(
        "entry", description="negative binomial: one for each entry from z, or one learned for each column"
    )

    @property
    def shares(self) -> bool:
        """Whether the rows of a negative binomial share dispersions, or are given their totals."""
        return (self.library, self.dispersion) != ("none", "entry")


SAMPLES = {"iwae": 5, "ciwae": 5, "dreg": 5, "miwae": 64}  # posterior samples by default; one for other objectives


class ObjectiveConfig(Named):
    """The bound that is minimised and the weights of its terms."""

    name: ObjectiveName = "elbo"
    beta: Float = Field(1.0, ge=0, description="weight of the divergence at the end of the warm-up")
    anneal: Literal["constant", "linear", "cosine", "sigmoid", "cyclical"] = "constant"
    warmup_steps: Int = Field(0, ge=0, description="steps from 0 to beta (a cyclical schedule: steps of one cycle)")
    cycles: Int = Field(4, ge=1, description="cycles of a cyclical schedule")
    free_bits: Float = Field(0.0, ge=0, description="nats per dimension or group that are free, batch-averaged")
    free_bits_per: Literal["dimension", "group"] = "dimension"
    capacity: Float | None = Field(None, ge=0, description="target rate in nats: beta * |KL - capacity|; None: off")
    capacity_steps: Int = Field(0, ge=0, description="steps over which the capacity rises from 0")
    target_rate: Float | None = Field(
        None, gt=0, description="KL in nats per sample that a controller holds by moving beta; None: off"
    )
    target_reconstruction: Float | None = Field(
        None, description="-log p(x|z) in nats per sample, on the data's own scale, held by moving beta; None: off"
    )
    samples: Int | None = Field(
        None, ge=1, description="posterior samples per row and step; None: 1, and 5 for iwae, ciwae, dreg, 64 for miwae"
    )
    outer: Int = Field(8, ge=1, description="MIWAE: groups that the samples fall into")
    mix: Float = Field(0.5, ge=0, le=1, description="CIWAE: weight of the ELBO beside the importance-weighted bound")
    penalty: Float | None = Field(
        None, ge=0, description="weight of the objective's own term; None: the default of its paper"
    )
    diagonal: Float | None = Field(None, ge=0, description="DIP: weight of the diagonal; None: the paper's")
    estimator: Literal["weighted", "stratified", "naive"] = Field(
        "weighted", description="beta-TC: how log q(z) is estimated from a batch"
    )
    kernel: Literal["imq", "rbf"] = Field("imq", description="of a maximum mean discrepancy")
    balance: bool = Field(False, description="hierarchy: balance the groups' divergences during the warm-up")
    adversarial: Float = Field(0.0, ge=0, description="weight of a discriminator of decoded rows; 0: none")

    @property
    def drawn(self) -> int:
        """Posterior samples per row and step."""
        return self.samples or SAMPLES.get(self.name, 1)

    @field_validator("samples")
    @classmethod
    def _default_said_aloud(cls, value: int | None, info: ValidationInfo) -> int | None:
        """The default, where it is written out: a run of an earlier version keeps its settings."""
        return None if value == SAMPLES.get(info.data.get("name", "elbo"), 1) else value

    @model_validator(mode="after")
    def _one_floor(self) -> Self:
        if self.capacity is not None and self.free_bits > 0:
            raise ValueError("free_bits and capacity both bound the rate; set one of them to 0 or null")
        if self.anneal != "constant" and self.warmup_steps == 0:
            raise ValueError("an annealed beta needs objective.warmup_steps of at least 1")
        return self

    @property
    def controlled(self) -> bool:
        """Whether a controller moves beta."""
        return self.target_rate is not None or self.target_reconstruction is not None

    @property
    def charges(self) -> bool:
        """Whether the divergence from the prior has a weight; where it has none, the ELBO is not what is trained."""
        return self.name not in WASSERSTEIN and (self.beta > 0 or self.controlled)

    @property
    def selects_by_bound(self) -> bool:
        """Whether the held-out bound selects the weights: of a Wasserstein autoencoder it is no measure."""
        return self.name not in WASSERSTEIN


class TrainConfig(Section):
    """The loop: counted in steps, since a stream has no epochs."""

    steps: Int | None = Field(
        None, ge=1, le=10**9, description="None: 200 passes over the rows, at least 2,000 and at most 10,000 steps"
    )
    epochs: Int | None = Field(None, ge=1, description="passes over the training rows, where steps are not given")
    batch_size: Int = Field(128, ge=1, le=2**24, description="rows per step over all processes")
    accumulate: Int = Field(1, ge=1, description="slices of a batch whose gradients are added up before a step")
    learning_rate: Float | None = Field(
        None, gt=0, le=1e3, description="None: 1e-3, and 1e-2 where encoder and decoder are linear"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="of the learning rate, down to 0")
    warmup_steps: Int = Field(0, ge=0, description="steps over which the learning rate rises from 0")
    weight_decay: Float = Field(0.0, ge=0, description="decoupled, as in AdamW")
    clip_norm: Float | None = Field(None, gt=0, description="bound of the gradient's norm; None: not clipped")
    ema: Float | None = Field(None, gt=0, lt=1, description="decay of averaged weights, which are then the ones kept")
    products: Literal["auto", "default", "onednn"] = Field(
        "auto", description="library for float32 matrices on a CPU; auto: measured where a step is large, and recorded"
    )
    cuda_graph: bool = Field(False, description="on a GPU: record a step once, and replay it in one launch")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="of the networks; tf32: all products of float32 matrices, on a GPU"
    )
    evaluate_every: Int | None = Field(None, ge=1, description="steps; None: fifty times a run, fewer where costly")
    checkpoint_every: Int | None = Field(None, ge=1, description="steps; None: ten times a run")
    log_every: Int | None = Field(None, ge=1, description="steps between lines of metrics; None: 200 lines a run")
    patience: Int | None = Field(
        None, ge=1, description="evaluations without a better held-out loss before stopping; counts after the warm-up"
    )
    on_nan: Literal["stop", "skip", "rollback"] = Field(
        "stop", description="what a non-finite loss or gradient does; rollback lowers the rate until it is safe again"
    )
    aggressive: Int = Field(1, ge=1, description="steps of which all but one move the encoder alone, at first")
    aggressive_until: Int = Field(0, ge=0, description="the step at which that ends")
    on_collapse: Literal["none", "anneal"] = Field(
        "none", description="what a posterior without information does; anneal brings beta up from 0 again, once"
    )
    device: Annotated[str, AfterValidator(_device_name)] = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: Int | None = Field(
        None, ge=1, le=1024, description="CPU threads; None: one for a small network, else PyTorch's choice"
    )
    deterministic: bool = Field(
        False, description="refuse operations whose result depends on timing; choose nothing by measurement"
    )

    @model_validator(mode="after")
    def _aggressive_for_a_while(self) -> Self:
        if (self.aggressive > 1) != (self.aggressive_until > 0):
            raise ValueError("aggressive above 1 and aggressive_until above 0 go together; neither does anything alone")
        return self

    @property
    def rate(self) -> float:
        """The learning rate, once the networks are known."""
        assert self.learning_rate is not None, "the config is not resolved"
        return self.learning_rate

    @property
    def total(self) -> int:
        """The steps of a run, once the data has been seen."""
        assert self.steps is not None, "the config is not resolved"
        return self.steps


class ReportConfig(Section):
    """What is written to look at."""

    html: bool = Field(True, description="write report.html at the end of training")
    images: Int = Field(10, ge=1, le=64, description="examples in each row of pictures")
    tensorboard: bool = Field(False, description="write TensorBoard events (extra: tensorboard)")
