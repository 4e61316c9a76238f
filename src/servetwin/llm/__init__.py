"""Model architectures: read from a Hugging Face config.json or the built-in catalogue."""

from servetwin.llm.base import ModelArchitecture
from servetwin.llm.catalogue import CatalogueModel, list_models, load_model, model_names
from servetwin.llm.operators import operators
from servetwin.llm.parallel import Parallelism
from servetwin.llm.parts import Attention, LatentAttention, Layer, LayerKind, MixtureOfExperts, Mlp
from servetwin.llm.tensors import Tensor

__all__ = [
    "Attention",
    "CatalogueModel",
    "LatentAttention",
    "Layer",
    "LayerKind",
    "MixtureOfExperts",
    "Mlp",
    "ModelArchitecture",
    "Parallelism",
    "Tensor",
    "list_models",
    "load_model",
    "model_names",
    "operators",
]
