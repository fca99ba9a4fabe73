"""What llama.cpp's clients ask of a server, GET /props."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

from pass_edge import Engine, Sampling
from pass_edge.native.model_path import readable

from .response_schemas import Properties


def of(engine: Engine, name: str) -> Properties:
    """Return the properties of ``engine``, whose model clients know as ``name``."""
    model, vocabulary = engine.model, engine.model.vocabulary
    bos, eos = (
        vocabulary.piece(token, special=True).decode(errors="replace") if token >= 0 else ""
        for token in (vocabulary.bos, vocabulary.eos)
    )
    parameters = {**asdict(Sampling()), "logit_bias": [], "seed": -1, "n_predict": -1}
    return Properties(
        default_generation_settings={"n_ctx": engine.context_size, "params": parameters},
        total_slots=engine.parallel,
        model_alias=name,
        model_path=readable(model.path),
        chat_template=model.chat_template() or "",
        modalities={"vision": False, "audio": False},
        bos_token=bos,
        eos_token=eos,
        build_info=f"pass-edge {version('pass-edge')}",
    )
