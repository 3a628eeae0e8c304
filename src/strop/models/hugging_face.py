"""Folders as `transformers` writes them: ``config.json`` and weights in safetensors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from strop.errors import MissingExtra, ModelError, TrustError
from strop.models.graph import first_line

PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
)
"""What a tokeniser or an image processor is made of: data alone, no code."""


def check_trust(folder: Path, *, trust: bool) -> None:
    """TrustError when the folder brings code of its own (``auto_map``), unless `trust`."""
    if brings_code(folder) and not trust:
        raise TrustError(
            f"'{folder.name}' brings Python code of its own (auto_map in its config.json)",
            hint="read it, then pass --trust (trust=True in Python)",
        )


def brings_code(folder: Path) -> bool:
    """Whether ``config.json`` names code that comes with the folder, or from elsewhere."""
    return bool(_config(folder).get("auto_map"))


def processor_files(folder: Path) -> list[Path]:
    """The files of the tokeniser or image processor that lie in the folder, if any."""
    return [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]


def open_folder(folder: Path) -> Any:
    """The network in the folder, of the class that its configuration names.

    Nothing is looked up on the network. Whoever calls it has made sure that the user trusts code
    that the folder brings (:func:`check_trust`).

    Raises
    ------
    ModelError
        When it holds no safetensors, or transformers does not know its architecture.
    """
    config = _config(folder)
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for path in sorted(folder.glob("*.bin"))]
        held = f"its weights are pickles ({', '.join(pickles)})" if pickles else "no weights in it"
        raise ModelError(
            f"'{folder.name}' holds no safetensors: {held}",
            hint="save it again with model.save_pretrained(folder), which writes safetensors",
        )
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra("transformers", extra="hf") from error
    logging.disable_progress_bar()
    code = bool(config.get("auto_map"))
    names = config.get("architectures") or ()
    known = getattr(transformers, str(names[0]), None) if names else None
    kind = known if known is not None and not code else _automatic(transformers, config)
    try:
        module = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=code,
        )
    except Exception as error:  # of transformers, of safetensors, or of the folder's own code
        raise ModelError(
            f"'{folder.name}' cannot be opened by transformers: {first_line(error)}",
            hint="open it with transformers first, or give file.py:callable",
        ) from error
    # Between two calls of a server nothing is kept.
    module.config.use_cache = False
    return module.float()


def _automatic(transformers: Any, config: dict[str, Any]) -> Any:
    """The automatic class that the folder's own code is registered for, else the plain one."""
    registered = config.get("auto_map") or {}
    for name in registered:
        if name.startswith("AutoModel") and hasattr(transformers, name):
            return getattr(transformers, name)
    return transformers.AutoModel


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(config, dict) or not ("model_type" in config or "architectures" in config):
        raise ModelError(
            f"'{path}' is no configuration of transformers: it names no model_type",
            hint="give the folder that save_pretrained wrote",
        )
    return config
