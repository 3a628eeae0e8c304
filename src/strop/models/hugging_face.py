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
    """TrustError when the folder's ``config.json`` names code, unless `trust`.

    Code comes with the folder (``auto_map``) or from a hub, as a kernel does that stands where an
    implementation of attention is named (``org/kernel``).
    """
    if not trust and (where := _code_in(_config(folder))):
        raise TrustError(
            f"'{folder.name}' brings Python code of its own ({where} in its config.json)",
            hint="read it, then pass --trust (trust=True in Python)",
        )


def processor_files(folder: Path) -> list[Path]:
    """The files of the tokeniser or image processor that lie in the folder, if any.

    Raises
    ------
    ModelError
        When one is a link to somewhere else: it would be copied into models and bundles.
    """
    files = [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    home = folder.resolve()
    # A download's files are links into the store beside its snapshots.
    store = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    for file in files:
        if not file.resolve().is_relative_to(home) and file.resolve().parent != store:
            raise ModelError(
                f"'{file.name}' in '{folder.name}' is a link to somewhere else",
                hint="copy the file itself",
            )
    return files


def open_folder(folder: Path) -> Any:
    """The network in the folder, of the class that its configuration names.

    Nothing is looked up on the network. Whoever calls it has made sure that the user trusts code
    that the folder brings (:func:`check_trust`).

    Raises
    ------
    ModelError
        When it holds no safetensors, an adapter, or not all of the network's weights, or
        transformers does not know its architecture.
    """
    config = _config(folder)
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"'{folder.name}' holds an adapter for another network",
            hint="merge it into that (merge_and_unload), and save the result",
        )
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
    logging.set_verbosity_error()  # what it warns of that matters is asked for below
    code = bool(_code_in(config))
    own = config.get("auto_map")
    kind = _automatic(transformers, own) if own else _named(transformers, config)
    try:
        module, told = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=code,
            output_loading_info=True,
        )
    except Exception as error:  # of transformers, of safetensors, or of the folder's own code
        raise ModelError(
            f"'{folder.name}' cannot be opened by transformers: {first_line(error)}",
            hint="open it with transformers first, or give file.py:callable",
        ) from error
    if missing := sorted(told["missing_keys"]):
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(
            f"'{folder.name}' lacks weights of its {type(module).__name__}, which would be random: "
            f"{shown}",
            hint="name the class that was saved in config.json (architectures), or give "
            "file.py:callable, a function that opens the network without them",
        )
    # Between two calls of a server nothing is kept.
    module.config.use_cache = False
    return module.float()


def _named(transformers: Any, config: dict[str, Any]) -> Any:
    """The class of networks that ``architectures`` names, else the plain automatic one."""
    names = config.get("architectures")
    known = (
        getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    )
    # Everything else of transformers has a name, too: tokenisers, functions, its own modules.
    is_network = isinstance(known, type) and issubclass(known, transformers.PreTrainedModel)
    return known if is_network else transformers.AutoModel


def _automatic(transformers: Any, registered: Any) -> Any:
    """The automatic class that the folder's own code is registered for, else the plain one."""
    for name in registered if isinstance(registered, dict) else ():
        if name.startswith("AutoModel") and hasattr(transformers, name):
            return getattr(transformers, name)
    return transformers.AutoModel


def _code_in(config: Any) -> str:
    """The key that names code, anywhere in a configuration; empty where none does."""
    if isinstance(config, list):
        return next(filter(None, map(_code_in, config)), "")
    if not isinstance(config, dict):
        return ""
    for key, value in config.items():
        if key == "auto_map" and value:
            return "auto_map"
        if key.endswith("_implementation") and "/" in json.dumps(value):
            return str(key)
        if found := _code_in(value):
            return found
    return ""


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(config, dict) or not ("model_type" in config or "architectures" in config):
        raise ModelError(
            f"'{path}' is no configuration of transformers: it names no model_type",
            hint="give the folder that save_pretrained wrote",
        )
    return config
