"""Options of encoders of images in front of the router (encode/prefill/decode disaggregation)."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from servetwin.scenario.base import Microseconds, Options, Tokens
from servetwin.scenario.disaggregation_options import PortOptions

VisionName: TypeAlias = Literal[
    "clip-vit-large-patch14-336",
    "siglip-so400m-patch14",
    "internvit-300m",
    "internvit-6b",
    "qwen2-vl",
    "qwen2.5-vl",
]


class EncoderTimeOptions(Options):
    """A measured encoder."""

    per_batch_us: Microseconds = Field(0.0, description="Of a batch, whatever is in it.")
    per_request_us: Microseconds = Field(0.0, description="For each request in it.")
    per_token_us: Microseconds = Field(0.0, description="For each embedding.")


class EncoderOptions(Options):
    """Encoders through which requests with `encoder_tokens` go before an instance is chosen for them."""

    workers: int = Field(1, ge=1, le=65_536, description="Equal encoders, each on one device, that share one queue.")
    device: str | None = Field(None, description="Name of their device; needed with `model`.")
    model: VisionName | None = Field(None, description="Vision encoder, timed on the device's roofline.")
    time: EncoderTimeOptions | None = Field(None, description="Measured times, in place of `model`.")
    tokens_per_image: Tokens | None = Field(
        None, description="Embeddings of one image, within which patches attend; default: a request has one image."
    )
    max_batch_requests: int = Field(8, ge=1, le=65_536, description="Most requests that are encoded together.")
    busy_w: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="What an encoder draws while it runs a batch, W; default: from what `model` computes; needed with "
        "`time` where the scenario has `power`.",
    )
    bytes_per_token: float | None = Field(
        None, gt=0, le=1e9, description="Of an embedding; default: the served model's hidden size in 16 bits."
    )
    port: PortOptions = Field(
        PortOptions(),
        description="Of each encoder, and of each accelerator of an instance where `disaggregation` has no ports.",
    )

    @model_validator(mode="after")
    def _check_time(self) -> EncoderOptions:
        if (self.model is None) == (self.time is None):
            raise PydanticCustomError("time", "give one of model (a vision encoder) and time (measured), not both")
        if self.model is not None and self.device is None:
            raise PydanticCustomError("device", "a vision encoder needs a device")
        if self.time is not None and self.tokens_per_image is not None:
            raise PydanticCustomError("tokens_per_image", "measured times know no images; leave tokens_per_image out")
        return self
