"""Which predictions `qwen3-mlx bench --predict` makes: the shapes of models that need no download, on a chip."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from .. import chips, hub, predict
from ..chips import Chip
from ..config import ModelConfig, QuantSpec
from ..errors import InvalidRequest, ModelNotFound
from ..predict import Prediction, Setting
from ..released import RELEASED
from .bench import UNPACKED

#: As the official checkpoints are packed that the names of released models stand for.
FOUR_BITS = QuantSpec(4, 64)


class Forecast(NamedTuple):
    """What is predicted of one model."""

    model: str
    setting: Setting
    prediction: Prediction


#: What is predicted on each variant of a chip.
Found = list[tuple[Chip, list[Forecast]]]


def forecasts(chip: str, model: str | None, bits: int | None, setting: Setting) -> Found:
    """Of one model, or of all released ones, on every variant of a chip. Raises InvalidRequest for an unknown chip or a
    model that has no such context or packing, ModelNotFound for one that is not on this machine."""
    variants = chips.find(chip)
    models = [(name, *_shape(name, bits)) for name in (RELEASED if model is None else [model])]
    for name, config, _ in models:
        if setting.context > config.max_position_embeddings:
            raise InvalidRequest(
                f"{name} is made for {config.max_position_embeddings:,} tokens of context, not {setting.context:,}",
                "context",
            )
    asked = [(name, config, dataclasses.replace(setting, spec=spec)) for name, config, spec in models]
    return [
        (variant, [Forecast(name, its, predict.predict(config, variant, its)) for name, config, its in asked])
        for variant in variants
    ]


def _shape(name: str, bits: int | None) -> tuple[ModelConfig, QuantSpec | None]:
    """A model's shape, and how its weights are packed: of a released one 4 bits, of a folder as it says."""
    wanted = None if bits is None or bits == UNPACKED else QuantSpec(bits)
    if (config := RELEASED.get(name.lower())) is not None:
        return config, wanted if bits else FOUR_BITS
    folder = hub.local(name)
    if folder is None:
        raise ModelNotFound(
            f"{name} is not on this machine, and --predict downloads nothing: name its size ({', '.join(RELEASED)}) or"
            " a folder"
        )
    config = ModelConfig.from_folder(folder)
    if (own := config.quantization) is None:
        return config, wanted
    if bits not in (None, own.bits):
        raise InvalidRequest(f"{name} is quantized already, to {own.bits} bits: leave --bits out", "bits")
    return config, QuantSpec(own.bits, own.group_size, own.mode)


SMALL = "a model this small may stay in the chip's caches, which memory bandwidth does not bound"


def assumptions(setting: Setting, least: float) -> list[str]:
    """What the numbers stand on, in sentences; ``least``: bytes that a step reads of the smallest model."""
    slow, fast = predict.SLOW, predict.FAST
    how = (
        f"predicted: {100 * slow.share:.0f} % of the bandwidth and {1e6 * slow.launch:g} us a launch, to"
        f" {100 * fast.share:.0f} % and {1e6 * fast.launch:g} us; that holds what others have published of mlx-lm,"
        " given its launches"
    )
    if setting.rows > 1:
        how = (
            "bound: rows choose experts at random, and read fewer where they say alike; predicted: nothing for several"
            " rows, because nothing published says what they reach"
        )
    return [
        *([SMALL] if least < predict.CACHES else []),
        how,
        "fits: two thirds of up to 32 GB are for the GPU, three quarters of more",
        "not in it: prompts, the host, a chip that throttles; measure with qwen3-mlx bench --model NAME",
    ]


def smallest(found: Found) -> float:
    """Bytes that a step reads of the smallest model."""
    return min(each.prediction.read for _, models in found for each in models)


def to_json(found: Found) -> dict[str, Any]:
    """All of it for ``json``, the chip's data and the assumptions included."""
    setting, least = found[0][1][0].setting, smallest(found)

    def one(each: Forecast) -> dict[str, Any]:
        spec = each.setting.spec
        numbers = {key: value for key, value in dataclasses.asdict(each.prediction).items() if key != "chip"}
        return {"model": each.model, "weights": dataclasses.asdict(spec) if spec else None, **numbers}

    return {
        "kind": predict.LABEL,
        "kv_bits": setting.kv_bits,
        "context": setting.context,
        "batch": setting.rows,
        "assumptions": assumptions(setting, least),
        "chips": [{**dataclasses.asdict(chip), "models": list(map(one, models))} for chip, models in found],
    }
