"""Model architectures: read from a Hugging Face config.json or the built-in catalogue."""

from servetwin.llm.base import ModelArchitecture, Tensor
from servetwin.llm.catalogue import CatalogueModel, list_models, load_model, model_names

__all__ = ["CatalogueModel", "ModelArchitecture", "Tensor", "list_models", "load_model", "model_names"]
