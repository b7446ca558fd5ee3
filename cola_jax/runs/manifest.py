"""What `run.json` has to hold: the settings of a run, and what is recorded of each start."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from cola_jax.config import MOST_LAYERS
from cola_jax.errors import InputError, reading
from cola_jax.files import parse_object

FIELDS = ConfigDict(strict=True)  # others may be there, such as those of a later version
Count = Annotated[int, Field(ge=0)]
Layer = Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
OF_PATHS = ("evaluate", "generate", "scan")  # commands that evaluate the same paths
COMMANDS = ("search", *OF_PATHS)


class Origin(BaseModel):
    """Where a model came from."""

    model_config = FIELDS

    kind: str | None = None
    name: str | None = None
    revision: str | None = None


class ScorerKind(BaseModel):
    """What a scorer does."""

    model_config = FIELDS

    open: bool | None = None
    decodes: bool | None = None


class Start(BaseModel):
    """What is recorded of a start."""

    model_config = FIELDS

    model: str | None = None
    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] | None = None
    origin: Origin | None = None
    scorer: ScorerKind | None = None
    task: str | None = None
    split: str | None = None
    shard: str | None = None
    date: str | None = None
    device: str | None = None
    python: str | None = None
    versions: dict[str, str] | None = None
    metrics: dict[str, float | None] | None = None


class PromptFormat(BaseModel):
    """How open questions are asked."""

    model_config = FIELDS

    name: str


class Prompt(BaseModel):
    """What decides the prompts."""

    model_config = FIELDS

    format: str | PromptFormat
    shots: list[str] | None = None
    num_fewshot: Count | None = None
    chat: bool | None = None


class RunSettings(BaseModel):
    """What decides the rows of a run."""

    model_config = FIELDS

    command: str | None = None
    model: str | None = None
    questions: Count | None = None
    simulations: Count | None = None
    leaves: Count | None = None
    seed: int | None = None
    early_stop: bool | None = None
    robust: bool | None = None
    control: str | None = None
    dtype: str | None = None
    grader: str | None = None
    max_new_tokens: Count | None = None
    paths: list[Annotated[list[Layer], Field(min_length=1)]] | None = None
    strategy: str | None = None
    preset: dict[str, Any] | None = None
    prompt: Prompt | None = None
    scorer: str | None = None
    variants: dict[str, str] | None = None


class Manifest(BaseModel):
    """The content of the file."""

    model_config = FIELDS

    settings: RunSettings
    starts: list[Start] = Field(min_length=1)

    @model_validator(mode="after")
    def is_whole(self) -> "Manifest":
        """Refuses a manifest without what its command records, and paths of other models."""
        settings, layers = self.settings, self.starts[-1].num_layers
        if settings.command in COMMANDS and None in (layers, settings.questions):
            raise InputError("it does not say how many layers the model has, or how many questions")
        if settings.command in OF_PATHS and not settings.paths:
            raise InputError("it names no paths")
        largest = max((max(path) for path in settings.paths or ()), default=0)
        if layers is not None and largest >= layers:
            raise InputError(f"it has a path of layer {largest}, but the model has {layers} layers")
        return self


MANIFEST = TypeAdapter(Manifest)


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Parses the content of `run.json`; ValueError says what is wrong."""
    manifest = parse_object(content, "its content")
    with reading("its content"):
        MANIFEST.validate_python(manifest)
    return manifest
