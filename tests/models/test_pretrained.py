"""Every family against `transformers`: its directories here, ours there, the same logits, the same continuations, all spellings.

A family is a row of `FAMILIES`, a way to write the same weights otherwise a row of `SPELLINGS`. No parameter is zero or one, so that
nothing hides.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForSeq2SeqLM

from myna.errors import UserError
from myna.generate.beam import search_beams
from myna.generate.options import SampleOptions
from myna.generate.rules import read_rules
from myna.generate.sample import sample_tokens
from myna.models.pretrained import load_model, save_model
from myna.models.record import read_record
from tests.models.decoders import edit_config, rewrite

V, LENGTH, TOKENS, CLOSE = 61, 80, 64, 1e-4
Tensors = dict[str, Tensor]


class Family(NamedTuple):
    """A kind of model, the class of `transformers` that reads it, and the values of its config."""

    kind: str
    auto: Any
    model_type: str
    values: dict[str, Any]
    rules: dict[str, Any] = {}  # what its generation_config.json says  # noqa: RUF012

    @property
    def generates(self) -> bool:
        return self.kind != "encoder"


_ENDS = {"eos_token_id": 3, "bos_token_id": None, "pad_token_id": 60}
_LLAMA = {"vocab_size": V, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": LENGTH, "rms_norm_eps": 1e-5, "sliding_window": None,
          **_ENDS}
_LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
_GPT2 = {"vocab_size": V, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": LENGTH, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
         "attn_pdrop": 0.0, **_ENDS}
_BERT = {"vocab_size": V, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 72,
         "type_vocab_size": 2, "max_position_embeddings": LENGTH, "layer_norm_eps": 1e-6}
_T5 = {"vocab_size": V, "d_model": 48, "d_kv": 12, "d_ff": 56, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
       "n_positions": LENGTH, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "pad_token_id": 0,
       "eos_token_id": 1, "decoder_start_token_id": 0}
_SIDES = {"vocab_size": V, "d_model": 48, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
          "decoder_attention_heads": 4, "encoder_ffn_dim": 56, "decoder_ffn_dim": 56, "max_position_embeddings": LENGTH}
FAMILIES = {
    "gpt2": Family("decoder", AutoModelForCausalLM, "gpt2", _GPT2),
    "llama": Family("decoder", AutoModelForCausalLM, "llama", {**_LLAMA, "tie_word_embeddings": True}),
    "llama-biased": Family("decoder", AutoModelForCausalLM, "llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama-3": Family("decoder", AutoModelForCausalLM, "llama", {**_LLAMA, "rope_parameters": {**_LLAMA3, "rope_theta": 5e3}},
                      {"eos_token_id": [3, 17, 22]}),
    "mistral": Family("decoder", AutoModelForCausalLM, "mistral", {**_LLAMA, "num_key_value_heads": 1}),
    "qwen2": Family("decoder", AutoModelForCausalLM, "qwen2", {**_LLAMA, "use_sliding_window": False, "sliding_window": 16,
                                                              "max_window_layers": 2}, {"eos_token_id": [3, 8]}),
    "qwen3": Family("decoder", AutoModelForCausalLM, "qwen3", {**_LLAMA, "head_dim": 16, "tie_word_embeddings": True}),
    "bert": Family("encoder", AutoModelForMaskedLM, "bert", _BERT),
    "bert-next-sentence": Family("encoder", AutoModelForPreTraining, "bert", {**_BERT, "hidden_act": "relu"}),
    "bert-body": Family("encoder", AutoModel, "bert", _BERT),
    "roberta": Family("encoder", AutoModelForMaskedLM, "roberta", {**_BERT, "pad_token_id": 1}),
    "roberta-body": Family("encoder", AutoModel, "roberta", {**_BERT, "pad_token_id": 1}),
    "albert": Family("encoder", AutoModelForMaskedLM, "albert", {**_BERT, "embedding_size": 20}),
    "albert-groups": Family("encoder", AutoModelForPreTraining, "albert", {**_BERT, "embedding_size": 20, "num_hidden_layers": 4,
                                                                           "num_hidden_groups": 2, "inner_group_num": 2}),
    "t5-v1.0": Family("encoder-decoder", AutoModelForSeq2SeqLM, "t5", {**_T5, "feed_forward_proj": "relu"}),
    "t5-v1.1": Family("encoder-decoder", AutoModelForSeq2SeqLM, "t5", {**_T5, "feed_forward_proj": "gated-gelu",
                                                                       "tie_word_embeddings": False}),
    "marian": Family("encoder-decoder", AutoModelForSeq2SeqLM, "marian", {
        **_SIDES, "activation_function": "swish", "scale_embedding": True, "eos_token_id": 0, "pad_token_id": V - 1, "bos_token_id": None,
        "decoder_start_token_id": V - 1, "forced_eos_token_id": 0}, {"bad_words_ids": [[V - 1], [5, 9]], "forced_eos_token_id": 0}),
    "bart": Family("encoder-decoder", AutoModelForSeq2SeqLM, "bart", {
        **_SIDES, "activation_function": "gelu", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2},
        {"forced_bos_token_id": 0, "forced_eos_token_id": 2, "begin_suppress_tokens": [7, 8]}),
}  # Whisper, which hears, has tests of its own
GENERATE = [name for name, family in FAMILIES.items() if family.generates]


def reference(name: str) -> Any:
    """Make a model of `transformers` with random parameters, every one, whose layers matter and whose logits lie far apart."""
    family = FAMILIES[name]
    model = family.auto.from_config(AutoConfig.for_model(family.model_type, **family.values)).eval()
    if name == "t5-v1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(V, 48))
    randomize(model, name)
    if family.generates:
        for word, value in family.rules.items():
            setattr(model.generation_config, word, value)
    return model


def randomize(model: Any, name: str) -> Any:
    """Give every parameter and the bias of the logits random values."""
    generator = torch.Generator().manual_seed(0)
    tied = name in ("gpt2", "llama", "qwen3", "marian", "bart")
    for key, parameter in model.named_parameters():
        if "embed_positions" in key and name == "marian":  # sines, which no file needs to hold
            continue
        if parameter.ndim == 1:
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator) + (0.5 if key.endswith("weight") else -0.5))
        elif "relative_attention_bias" in key:
            parameter.data.normal_(0, 1, generator=generator)
        elif parameter.shape[0] in (V, LENGTH, LENGTH + 2) or "embeddings" in key:
            parameter.data.normal_(0, 1.5 if name == "t5-v1.0" else 0.3 if tied else 0.8, generator=generator)
        else:
            fan_in = parameter.shape[0] if "c_" in key else parameter.shape[1]
            parameter.data.normal_(0, (0.7 if key.endswith(("q.weight", "k.weight")) else 1.3) / fan_in**0.5, generator=generator)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(0, 1, generator=generator)
    return model


def rows(*lengths: int, seed: int = 3) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(10, V - 1, length).tolist() for length in lengths]


def compare(mine: Any, theirs: Any, kind: str, texts: list[list[int]] | None = None) -> float:
    """Return the largest difference of two models' logits (of an encoder's body: hidden states) over rows alone and padded together."""
    texts = texts or rows(17, 12, 5)
    batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(text), dtype=torch.int64) for text in texts], batch_first=True)
    targets = rows(9, 9, 9, seed=4)[: len(texts)]
    batch[mask == 0] = theirs.config.pad_token_id or 0
    expected, got, alone = [], [], []
    with torch.no_grad():
        for text, target in zip(texts, targets, strict=True):
            given = {"decoder_input_ids": torch.tensor([target])} if kind == "encoder-decoder" else {}
            out = theirs(input_ids=torch.tensor([text]), **given)
            expected.append(next(out[word] for word in ("logits", "prediction_logits", "last_hidden_state") if word in out)[0])
        assert torch.cat(expected).std() > 0.3  # or nothing would be shown
        if kind == "encoder":
            hidden = mine.encode(batch, mask)
            score = mine.logits if mine.head is not None else torch.nn.Identity()
            got = [score(row[: len(text)]) for row, text in zip(hidden, texts, strict=True)]
            alone = [score(mine.encode(torch.tensor([text])))[0] for text in texts]
        elif kind == "encoder-decoder":
            together = mine.logits(mine.decode(torch.tensor(targets), *mine.encode(batch, mask.bool())))
            got, alone = list(together), [mine.logits(mine.decode(torch.tensor([target]), *mine.encode(torch.tensor([text]), None)))[0]
                                          for text, target in zip(texts, targets, strict=True)]
        else:
            alone = [mine.logits(mine.hidden(torch.tensor([text])))[0] for text in texts]
            scored = mine.step(texts, mine.start(len(texts)), last=False)  # rows of several lengths together
            expected += [row.log_softmax(-1) for row in expected]
            alone += [torch.from_numpy(row[: len(text)]) for row, text in zip(scored, texts, strict=True)]
    differences = [float((ours - row).abs().max()) for one in (got, alone) if one for ours, row in zip(one, expected, strict=True)]
    return max(differences)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A family, its model of `transformers`, and the directory which that saved."""
    theirs, folder = reference(request.param), tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return request.param, theirs, folder


def test_what_transformers_saves_opens_here_and_what_is_saved_here_opens_there(made: tuple[str, Any, Path], tmp_path: Path) -> None:
    name, theirs, folder = made
    family, mine = FAMILIES[name], load_model(folder)
    assert compare(mine, theirs, family.kind) < CLOSE
    assert not mine.training and not any(parameter.requires_grad for parameter in mine.parameters())
    assert read_record(folder).parameters == mine.config.count_parameters()
    save_model(mine, tmp_path, theirs.config.pad_token_id)
    architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    again, loading = family.auto.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert type(again).__name__ == architecture == type(theirs).__name__ and again.dtype == torch.float32
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert compare(mine, again.eval(), family.kind) < CLOSE
    assert load_model(tmp_path).config == mine.config
    if family.generates:
        assert again.config.eos_token_id == again.generation_config.eos_token_id == mine.separator_id


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_in_shards_open_exactly(made: tuple[str, Any, Path], dtype: torch.dtype, tmp_path: Path) -> None:
    name, _, folder = made
    auto = FAMILIES[name].auto
    auto.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1 and (tmp_path / "model.safetensors.index.json").is_file()
    exact = auto.from_pretrained(tmp_path, dtype=torch.float32)
    if name == "marian":  # whose sines transformers rounds with the rest; here they are computed
        original = auto.from_pretrained(folder, dtype=torch.float32)
        for side, table in ((s, getattr(original.model, s).embed_positions.weight) for s in ("encoder", "decoder")):
            getattr(exact.model, side).embed_positions.weight.data.copy_(table)
    assert compare(load_model(tmp_path), exact.eval(), FAMILIES[name].kind) < CLOSE


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", GENERATE)
def test_continuations_of_64_tokens_are_those_of_transformers(name: str, beams: int, tmp_path: Path) -> None:
    theirs, family = reference(name), FAMILIES[name]
    answers = family.kind == "encoder-decoder"
    for whole, text in zip((False, True), rows(11, 6, seed=8), strict=True):  # with and without an end
        ends = theirs.generation_config.eos_token_id
        theirs.generation_config.suppress_tokens = (ends if isinstance(ends, list) else [ends]) if whole else None
        theirs.generation_config.no_repeat_ngram_size = 2 if whole else None
        theirs.generation_config.min_new_tokens = None if whole else 7
        if whole:
            theirs.generation_config.forced_eos_token_id = None
        theirs.save_pretrained(tmp_path)
        mine = load_model(tmp_path)
        rules = read_rules(tmp_path, mine.vocab_size)
        assert rules.source == answers
        with torch.no_grad():
            out = theirs.generate(torch.tensor([text]), attention_mask=torch.ones(1, len(text), dtype=torch.int64),
                                  max_new_tokens=TOKENS, num_beams=beams, do_sample=False)[0].tolist()
        expected = out[1 if answers else len(text):]
        prompt, source = ([], text) if answers else (text, None)
        if beams == 1:
            options = SampleOptions(max_tokens=TOKENS, temperature=0.0)
            got = [drawn.token for drawn in sample_tokens(mine, prompt, options, rules.end_ids, source=source, rules=rules)]
        else:
            options = SampleOptions(max_tokens=TOKENS, num_beams=beams)
            got = search_beams(mine, prompt, options, rules.end_ids, source=source, rules=rules)[0].tokens
        assert got == expected
        if whole:
            assert len(got) == TOKENS and len(set(got)) > 3  # not one token for ever


# ---- how real checkpoints write the same ----

def _respell(change: Callable[[str], str], more: Callable[[Tensors], Tensors] = lambda tensors: {}) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        added = more(tensors)
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)
        tensors |= added
    return edit


def _gpt2_buffers(tensors: Tensors) -> Tensors:
    return {f"h.{layer}.attn.bias": torch.ones(1, 1, LENGTH, LENGTH).tril().bool() for layer in range(3)} | {
        f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)} | {"lm_head.weight": tensors["transformer.wte.weight"]}


def _old_norms(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def _ids(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {f"{prefix}embeddings.position_ids": torch.arange(LENGTH)[None],
                            f"{prefix}embeddings.token_type_ids": torch.zeros(1, LENGTH, dtype=torch.int64)}


def _twice(head: str, table: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({f"{head}.decoder.weight": tensors[table].clone(),
                                           f"{head}.decoder.bias": tensors.pop(f"{head}.bias").clone()})


def _copies(table: str, *names: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensors[table].clone() for name in names})


def _sines(tensors: Tensors) -> None:
    _copies("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")(tensors)
    at = np.arange(LENGTH)[:, None] / 10000 ** (np.arange(0, 48, 2) / 48)
    table = torch.tensor(np.concatenate((np.sin(at), np.cos(at)), 1), dtype=torch.float32)
    tensors |= {f"model.{side}.embed_positions.weight": table.clone() for side in ("encoder", "decoder")}


_T5_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_NEW = ("dtype", "transformers_version", "tie_word_embeddings", "scale_decoder_outputs", "dense_act_fn", "is_gated_act")  # words
_HARMLESS = {"_name_or_path": "x", "transformers_version": "4.0.0", "torch_dtype": "float32", "use_cache": True, "gradient_checkpointing":
             False, "initializer_range": 0.02, "task_specific_params": {"a": {"max_length": 3}}, "_num_labels": 3, "n_ctx": LENGTH,
             "pretraining_tp": 1, "classifier_dropout": None, "output_past": True, "custom": {"deep": [1, None, {"a": "b"}]}}


class Spelling(NamedTuple):
    """How a directory of a family is written otherwise."""

    family: str
    tensors: Callable[[Tensors], object] = lambda tensors: None
    removed: tuple[str, ...] = ()
    config: dict[str, Any] = {}  # noqa: RUF012


SPELLINGS = {
    "gpt2 as published": Spelling("gpt2", _respell(lambda name: name.removeprefix("transformer."), _gpt2_buffers),
                                  ("dtype", "tie_word_embeddings", "n_inner", "scale_attn_weights"), {"torch_dtype": "float32"}),
    "bert in TensorFlow's words": Spelling("bert", _respell(_old_norms, _ids("bert."))),
    "bert without prefix": Spelling("bert", _respell(lambda name: name.removeprefix("bert."), _ids(""))),
    "bert with its head stored twice": Spelling("bert", _twice("cls.predictions", "bert.embeddings.word_embeddings.weight")),
    "bert with a pooler and no head": Spelling("bert-body", _respell(lambda name: name, _ids(""))),
    "bert's body with its prefix": Spelling("bert-body", _respell(lambda name: f"bert.{name}")),
    "roberta without prefix": Spelling("roberta", _respell(lambda name: name.removeprefix("roberta."), _ids(""))),
    "roberta with its head stored twice": Spelling("roberta", _twice("lm_head", "roberta.embeddings.word_embeddings.weight")),
    "roberta's body with its prefix": Spelling("roberta-body", _respell(lambda name: f"roberta.{name}", _ids("roberta."))),
    "albert in TensorFlow's words": Spelling("albert", _respell(_old_norms, _ids("albert."))),
    "albert with its head stored twice": Spelling("albert", _twice("predictions", "albert.embeddings.word_embeddings.weight")),
    "llama before grouped keys": Spelling("llama-biased", config={"head_dim": None, "rope_scaling": None, "rope_theta": 10000.0},
                                          removed=("rope_parameters", "head_dim")),
    "llama 3 in old words": Spelling("llama-3", removed=("rope_parameters", "dtype"), config={
        "rope_scaling": _LLAMA3, "rope_theta": 5e3, "torch_dtype": "bfloat16", "eos_token_id": [3, 17, 22]}),
    "llama without prefix, with frequencies": Spelling("llama", _respell(
        lambda name: name.removeprefix("model."), lambda tensors: {f"layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(6)
                                                                   for i in range(3)})),
    "qwen2 as published": Spelling("qwen2", removed=("rope_parameters", "layer_types", "head_dim", "dtype"), config={
        "rope_theta": 10000.0, "use_sliding_window": False, "sliding_window": 16, "max_window_layers": 2, "torch_dtype": "bfloat16"}),
    "qwen3 with its head stored twice": Spelling("qwen3", _copies("model.embed_tokens.weight", "lm_head.weight")),
    "mistral with a window as wide as its context": Spelling("mistral", config={"sliding_window": LENGTH}),
    "t5 1.0 as published": Spelling("t5-v1.0", _copies("shared.weight", *_T5_COPIES, "lm_head.weight"), _NEW),
    "t5 1.0 under another name": Spelling("t5-v1.0", lambda tensors: tensors.update({_T5_COPIES[0]: tensors.pop("shared.weight")}), _NEW),
    "t5 1.1 as published": Spelling("t5-v1.1", _copies("shared.weight", *_T5_COPIES), _NEW, {"tie_word_embeddings": False}),
    "marian as published": Spelling("marian", _sines, ("tie_word_embeddings", "dtype"), {
        "static_position_embeddings": True, "normalize_embedding": False, "normalize_before": False, "add_final_layer_norm": False,
        "add_bias_logits": False, "num_hidden_layers": 3}),
    "bart as published": Spelling("bart", _copies("model.shared.weight", "model.encoder.embed_tokens.weight",
                                                  "model.decoder.embed_tokens.weight", "lm_head.weight"), (),
                                  {"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False,
                                   "static_position_embeddings": False, "classif_dropout": 0.1}),
    **{f"{name} with harmless words": Spelling(name, config=_HARMLESS) for name in FAMILIES},
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_the_spellings_of_real_checkpoints(case: str, tmp_path: Path) -> None:
    spelling = SPELLINGS[case]
    theirs, kind = reference(spelling.family), FAMILIES[spelling.family].kind
    if case == "llama before grouped keys":
        values = {**FAMILIES["llama-biased"].values, "num_key_value_heads": None}
        theirs = randomize(AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **values)), "llama-biased").eval()
    theirs.save_pretrained(tmp_path)
    parameters = load_model(tmp_path).config.count_parameters()
    rewrite(tmp_path, spelling.tensors)
    edit_config(tmp_path, spelling.removed, **spelling.config)
    if case == "llama before grouped keys":
        edit_config(tmp_path, num_key_value_heads=None)
    mine = load_model(tmp_path)
    assert compare(mine, theirs, kind) < CLOSE
    assert mine.config.count_parameters() == read_record(tmp_path).parameters == parameters


def test_minilm_opens_as_an_encoder_without_a_head(tmp_path: Path) -> None:
    """As `BertModel` saves it: no prefix, a pooler, no head that predicts."""
    theirs = reference("bert-body")
    theirs.save_pretrained(tmp_path)
    mine = load_model(tmp_path)
    assert mine.head is None and mine.pooler is not None
    ids = torch.tensor(rows(9))
    with torch.no_grad():
        expected = theirs(ids)
        torch.testing.assert_close(mine.encode(ids), expected.last_hidden_state, rtol=0, atol=CLOSE)
        torch.testing.assert_close(mine.pool(mine.encode(ids)[:, 0]), expected.pooler_output, rtol=0, atol=CLOSE)
    shape = dict(read_record(tmp_path).shape)
    assert shape["layers"] == "3 of width 48" and shape["attention"].startswith("4 heads")


@pytest.mark.parametrize(("name", "changes"), [
    ("mistral", {"sliding_window": 16}), ("qwen2", {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 16}),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "use_sliding_window": True, "sliding_window": 16}),
], ids=str)
def test_layers_that_look_back_a_window_are_exact_within_it_and_take_no_longer_text(
        name: str, changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference(name).save_pretrained(tmp_path)
    edit_config(tmp_path, ("layer_types",), **changes)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    mine = load_model(tmp_path)
    assert mine.max_length == 16 and "look back 16 tokens" in capsys.readouterr().err
    assert compare(mine, theirs, "decoder", rows(16, 9)) < CLOSE
    with pytest.raises(ValueError, match="17 ids"):
        mine.step(rows(17), mine.start())


def test_a_t5_whose_head_is_nearly_its_table_is_untied(tmp_path: Path) -> None:
    theirs = reference("t5-v1.0")
    theirs.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"] + 1e-6}))
    assert load_model(tmp_path).lm_head is not None
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="both sides share"):
        load_model(tmp_path)
