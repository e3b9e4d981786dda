"""Exported models in `transformers` itself: the same logits, the same text, and back again."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import original
from epochal.cli.main import main
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.downstream_tasks.babylm import BabyLMScorer
from epochal.downstream_tasks.babylm_files import read_tasks
from epochal.downstream_tasks.options import DownstreamOptions
from epochal.errors import CheckpointError, RunError, UserError
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.options import EvalOptions
from epochal.families import families, get_family
from epochal.generation.config import GenerationConfig
from epochal.interop.exports import export_hf, mask_name
from epochal.interop.hf_config import auto_classes
from epochal.interop.huggingface import hf_tokenizer, read_hf
from epochal.interop.imports import import_hf, import_megatron
from epochal.interop.load import load
from epochal.interop.options import ImportOptions, MegatronOptions
from epochal.objectives import Draw
from epochal.objectives.block_diffusion import BlockDiffusion
from epochal.objectives.jump_noise import uniform_share
from epochal.runs import RunRecord
from epochal.training.train import train
from local_tasks import write_babylm
from tiny_runs import overrides

FAMILIES = ["ar", "mdm"]
TOLD = {"hybrid.shift": -2.0, "model.noise_conditioning": True}
MORE = [("anyorder", {}), ("uniform", {}), ("hybrid", TOLD)]


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    """The library, with what it warns of on import put aside; it keeps no code of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("transformers", reason="transformers is not installed")
        found.logging.set_verbosity_error()
        modules = found.dynamic_module_utils
    kept = modules.HF_MODULES_CACHE
    modules.HF_MODULES_CACHE = str(tmp_path_factory.mktemp("modules"))
    yield found
    modules.HF_MODULES_CACHE = kept


@pytest.fixture(scope="module")
def odd(tiny_corpus, tmp_path_factory):
    """Runs with an output table of their own and heads that do not fill the width."""
    folder = tmp_path_factory.mktemp("odd")
    shape = {"model__tie_embeddings": False, "model__head_dim": 20, "train__steps": 6}
    for family in FAMILIES:
        train(None, overrides(tiny_corpus, folder / family, family=family, **shape))
    return folder


@pytest.fixture(scope="module")
def completep(tiny_corpus, tmp_path_factory):
    """Runs whose multipliers are powers of two, which are folded without rounding."""
    folder = tmp_path_factory.mktemp("completep")
    base = {"model__base_width": 16, "model__base_depth": 2, "model__base_head_dim": 4}
    for family in FAMILIES:
        scaled = {"family": family, "model__parametrisation": "completep"} | base
        train(None, overrides(tiny_corpus, folder / family, train__steps=6, **scaled))
    return folder


@pytest.fixture(scope="module", params=["plain", "odd", "completep"])
def runs(request, tiny_pair, odd, completep):
    return {"plain": tiny_pair, "odd": odd, "completep": completep}[request.param]


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for family in FAMILIES:
        export_hf(runs / family, folder / family)
    return folder


def ids_for(model, rows=2, length=24):
    """Ids, some of them the mask for a diffusion model."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(model.tokenizer.vocabulary, (rows, length), generator=generator)
    if model.family == "mdm":
        ids[torch.rand(ids.shape, generator=generator) < 0.3] = model.tokenizer.mask
    return ids


def opened(transformers, folder):
    """The model as `transformers` loads it; every weight must be found and used."""
    ar = folder.name == "ar"
    auto = transformers.AutoModelForCausalLM if ar else transformers.AutoModel
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = auto.from_pretrained(
            folder, trust_remote_code=not ar, output_loading_info=True
        )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_ours(transformers, runs, exported, family):
    ours = load(runs / family)
    theirs = opened(transformers, exported / family)
    ids = ids_for(ours)
    with torch.no_grad():
        found = theirs(ids).logits
    torch.testing.assert_close(found, ours.logits(ids), rtol=0, atol=1e-5)
    if family == "ar":
        assert type(theirs).__name__ == "LlamaForCausalLM"


def test_greedy_text_of_the_stock_llama_is_ours(transformers, runs, exported):
    ours = load(runs / "ar")
    theirs = opened(transformers, exported / "ar")
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "ar")
    for prompt in ("The ", "if x", ""):
        [expected] = ours.generate(prompt, GenerationConfig(tokens=16, temperature=0.0))
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            new = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False
            )
        found = new[0, ids.shape[1] :].tolist()
        end = ours.tokenizer.end_of_document
        found = found[: found.index(end)] if end in found else found
        assert prompt + ours.tokenizer.decode(found) == expected
        assert max(found, default=0) < ours.tokenizer.vocabulary


@pytest.mark.parametrize("steps", [None, 3])
def test_the_diffusion_models_own_generate_is_ours(transformers, runs, exported, steps):
    ours = load(runs / "mdm")
    theirs = opened(transformers, exported / "mdm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "mdm")
    assert tokenizer.mask_token_id == ours.tokenizer.mask
    mask = tokenizer.mask_token
    [expected] = ours.generate(
        "if [MASK:5] is [MASK] then", GenerationConfig(temperature=0.0, steps=steps)
    )
    ids = tokenizer(f"if {5 * mask} is {mask} then", return_tensors="pt").input_ids
    filled = theirs.generate(ids, steps=steps)
    assert ours.tokenizer.decode(filled[0, 1:].tolist()) == expected
    more = theirs.generate(tokenizer("The", return_tensors="pt").input_ids, max_new_tokens=7)
    [text] = ours.generate("The", GenerationConfig(tokens=7, temperature=0.0))
    new = more[0, 1:].tolist()
    end_id = ours.tokenizer.end_of_document
    assert ours.tokenizer.decode(new[: new.index(end_id)] if end_id in new else new) == text


def test_padding_is_hidden_from_the_diffusion_model(transformers, runs, exported):
    theirs = opened(transformers, exported / "mdm")
    ids = ids_for(load(runs / "mdm"))
    padded = torch.cat([ids, torch.zeros_like(ids[:, :5])], dim=1)
    seen = torch.cat([torch.ones_like(ids), torch.zeros_like(ids[:, :5])], dim=1)
    with torch.no_grad():
        whole = theirs(padded, attention_mask=seen, labels=padded)
        torch.testing.assert_close(whole.logits[:, :24], theirs(ids).logits, rtol=0, atol=1e-5)
    assert whole.loss.isfinite()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_gives_our_ids(transformers, runs, exported, family):
    ours = load(runs / family).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(exported / family)
    text = "The module's café — provides (x, y):\n    return [1, 2]\n"
    ids = ours.encode(text).tolist()
    assert theirs(text).input_ids == [ours.end_of_document, *ids]  # as texts begin in training
    assert theirs(text, add_special_tokens=False).input_ids == ids
    assert theirs.eos_token_id == ours.end_of_document
    assert theirs.decode(ours.encode(text)) == text
    assert hf_tokenizer(exported / family).sha256 == ours.sha256


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_card_tells_to_type_works(transformers, exported, family, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    card = (exported / family / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("max_new_tokens=40", "max_new_tokens=5"), {})
    assert capsys.readouterr().out.startswith("<|endoftext|>The")


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(runs, exported, family, tmp_path, tiny_corpus):
    before = load(runs / family)
    record = import_hf(exported / family, tmp_path / "back", ImportOptions(corpus=tiny_corpus))
    after = load(record.path)
    assert (after.family, after.step) == (family, before.step)
    assert after.tokenizer.sha256 == before.tokenizer.sha256
    ids = ids_for(before)
    assert torch.equal(after.logits(ids), before.logits(ids))
    assert record.numbers["unique_tokens"] == 1000
    assert record.recipe.train == before.recipe.train
    assert evaluate(record).nll_nats_per_token == pytest.approx(
        evaluate(runs / family, EvalOptions(checkpoint="best")).nll_nats_per_token, abs=1e-6
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_can_be_loaded_as_it_is(runs, exported, family):
    ours, theirs = load(runs / family), load(exported / family)
    ids = ids_for(ours)
    assert torch.equal(theirs.logits(ids), ours.logits(ids))
    config = GenerationConfig(tokens=5, seed=1)
    assert theirs.generate("The ", config) == ours.generate("The ", config)


@pytest.fixture(scope="module")
def others(tiny_corpus, tiny_pair, tmp_path_factory):
    """Runs of other families, and exports of all."""
    folder = tmp_path_factory.mktemp("others")
    for family in FAMILIES:
        (folder / family).symlink_to(tiny_pair / family)
        export_hf(folder / family, folder / "hf" / family)
    for family, more in (("dual", {}), ("block", {"block.size": 4}), *MORE):
        more = {"family": family, "train__steps": 6} | more
        train(None, overrides(tiny_corpus, folder / family, **more))
        export_hf(folder / family, folder / "hf" / family)
    return folder


@pytest.fixture(scope="module")
def masked(transformers, others):
    """Their exports by the masked class."""
    auto = transformers.AutoModelForMaskedLM
    return {
        family: auto.from_pretrained(others / "hf" / family, trust_remote_code=True).eval()
        for family in ("mdm", "dual", "block")
    }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = write_babylm(tmp_path_factory.mktemp("full_eval"))
    return [item for _, _, items in read_tasks(folder) for item in items]


def as_babylm_scores(tokenizer, model, text, scored, causal):
    """Σ log p of the tokens that end behind the first scored character, by that evaluation's
    rules: its causal scores predict the next token, its masked ones mask one token at a time."""
    read = tokenizer(text, return_offsets_mapping=True)
    ids = torch.tensor(read["input_ids"])
    places = [i for i, (_, end) in enumerate(read["offset_mapping"]) if end > len(text) - scored]
    rows = ids[None, :-1] if causal else ids.repeat(len(places), 1)
    if not causal:
        rows[range(len(places)), places] = tokenizer.mask_token_id
    with torch.no_grad():
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
    logs = logits.log_softmax(-1)
    return sum(
        float(logs[0, place - 1, ids[place]] if causal else logs[row, place, ids[place]])
        for row, place in enumerate(places)
    )


@pytest.mark.parametrize(
    ("family", "score"),
    [
        ("ar", "exact"),
        ("anyorder", "exact"),
        ("dual", "exact"),
        ("mdm", "pseudo"),
        ("dual", "pseudo"),
        ("block", "pseudo"),
    ],
)
def test_babylm_scores_there_as_here(transformers, others, masked, pairs, family, score):
    folder, causal = others / "hf" / family, score == "exact"
    tokenizer = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    theirs = masked.get(family)
    if causal:
        auto = transformers.AutoModelForCausalLM
        theirs = auto.from_pretrained(folder, trust_remote_code=True).eval()
    scorer = BabyLMScorer(load(others / family), score, DownstreamOptions(tasks="babylm"))
    for item, found in zip(pairs, scorer.likelihoods(pairs), strict=True):
        for text, scored, ours in zip(item.texts, item.scored, found, strict=True):
            expected = as_babylm_scores(tokenizer, theirs, text, scored, causal)
            assert ours.log_prob == pytest.approx(expected, rel=1e-5)


def test_block_diffusion_reads_and_writes_as_ours(transformers, others, masked):
    ours = load(others / "block")
    ids = ids_for(ours, rows=1)
    ids[:, 8:12] = ours.tokenizer.mask  # one block: those before it are clean
    with torch.no_grad():
        found = masked["block"](ids).logits[:, 8:12]
    reading = BlockDiffusion(4, ours.tokenizer.mask).likelihood_problem(
        ids, (torch.arange(24) // 4 == 2)[None], Draw(np.array([0.999]), np.array([1], np.uint64))
    )
    with torch.no_grad():
        rule = reading.attention.mask(ids.device)
        states = ours.model(reading.inputs, rule, positions=reading.positions)
        expected = torch.nn.functional.linear(states, ours.model.table)
    torch.testing.assert_close(found, expected[:, 8:12], rtol=0, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(others / "hf" / "block")
    [text] = ours.generate("The", GenerationConfig(tokens=7, temperature=0.0))
    new = masked["block"].generate(tokenizer("The", return_tensors="pt").input_ids, 7)[0, 1:]
    assert ours.tokenizer.decode(new).split(ours.tokenizer.end_token)[0] == text


def test_a_dual_model_has_two_classes(transformers, others, masked):
    ours = load(others / "dual")
    ids = ids_for(ours)
    ids[:, 5:9] = ours.tokenizer.mask
    causal = transformers.AutoModelForCausalLM.from_pretrained(
        others / "hf" / "dual", trust_remote_code=True
    )
    assert type(causal).__name__ == "LlamaForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(causal(ids).logits, ours.logits(ids), rtol=0, atol=1e-5)
        found = masked["dual"](ids).logits
        expected = ours.model.logits(ids, "bidirectional")
    torch.testing.assert_close(found[:, 1:], expected[:, :-1], rtol=0, atol=1e-5)
    assert not found[:, 0].any()


@pytest.mark.parametrize("family", ["anyorder", "block", "dual", "hybrid", "uniform"])
def test_the_others_come_back(others, family, tmp_path):
    back = load(import_hf(others / "hf" / family, tmp_path / "back").path)
    before = load(others / family)
    assert (back.family, back.recipe.options) == (family, before.recipe.options)
    assert back.recipe.model.noise_conditioning == before.recipe.model.noise_conditioning
    ids = ids_for(before)
    torch.testing.assert_close(back.nll(ids), before.nll(ids), rtol=1e-6, atol=0)
    other = {"dual": "ar", "hybrid": "uniform", "uniform": "mdm"}.get(family, "hybrid")
    with pytest.raises(CheckpointError, match=f"the family given is {other}"):
        read_hf(others / "hf" / family, family=other)


@pytest.mark.parametrize(("family", "shift"), [("uniform", None), ("hybrid", -2.0)])
def test_noise_by_the_class_that_scores_nothing(transformers, others, family, shift):
    """The logits of a noised row, and the share of random tokens in noise at each level."""
    ours = load(others / family)
    model = transformers.AutoModel.from_pretrained(
        others / "hf" / family, trust_remote_code=True
    ).eval()
    assert auto_classes(get_family(family)) == ("AutoModel",)
    assert model.config.noise_shift == shift
    ids, level = ids_for(ours), torch.tensor([-3.0, 0.7])
    with torch.no_grad():
        expected = ours.model.logits(ids, "bidirectional", level)
        torch.testing.assert_close(model(ids, log_snr=level).logits, expected, rtol=0, atol=1e-5)
        if model.config.noise_conditioning:  # it does read it
            assert not torch.allclose(model(ids, log_snr=-level).logits, expected, atol=1e-3)
            with pytest.raises(ValueError, match="log_snr"):
                model(ids)
    assert model.config.noise_conditioning == (family == "hybrid")
    for keep in (0.0, 0.01, 0.5, 1.0):
        with np.errstate(divide="ignore"):
            log_snr = np.log(keep) - np.log1p(-keep)
        own = uniform_share(np.array(log_snr), np.inf if shift is None else shift)
        assert model._uniform_share(keep) == pytest.approx(float(own))
    with pytest.raises(ValueError, match="AutoModelForMaskedLM"):
        transformers.AutoModelForMaskedLM.from_pretrained(
            others / "hf" / family, trust_remote_code=True
        )


def test_noise_is_taken_back_as_ours_is(transformers, others, monkeypatch):
    """With a network whose x̂ is known, both writers draw each token from it, whatever the steps."""
    folder = others / "hf" / "hybrid"
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    words = model.config.text_vocabulary
    known = torch.full((words,), -9.0).index_fill_(0, torch.tensor([5, 6, 7]), 0.0)
    known[5] = 1.0
    rows = torch.full((2000, 4), model.config.mask_token_id)
    rows[:, 0] = 3

    def forward(self, ids, log_snr):
        return SimpleNamespace(logits=known.expand(*ids.shape, words))

    monkeypatch.setattr(type(model), "forward", forward)
    generator = torch.Generator().manual_seed(1)
    found = model.generate(rows, steps=5, generator=generator)
    assert (found[:, 0] == 3).all()
    counts = torch.bincount(found[:, 1:].flatten(), minlength=words)
    expected = 6000 * known.softmax(0)
    assert (abs(counts - expected)[5:8] < 4 * expected[5:8].sqrt()).all()
    likeliest = model.generate(rows[:2], steps=3, temperature=0.0, generator=generator)
    assert (likeliest[:, 1:] == 5).all()


def test_what_an_auto_class_can_score_follows_from_the_familys_entry(tiny_pair, tmp_path):
    found = {family.name: auto_classes(family) for family in families()}
    assert found["ar"] == found["anyorder"] == ("AutoModelForCausalLM",)
    assert found["mdm"] == found["block"] == ("AutoModelForMaskedLM",)
    assert found["dual"] == ("AutoModelForCausalLM", "AutoModelForMaskedLM")
    assert auto_classes(replace(get_family("mdm"), mask_token=False)) == ()
    assert export_hf(tiny_pair / "ar", tmp_path / "x").auto_classes == found["ar"]


def test_a_llama_of_another_origin_comes_in(transformers, tmp_path):
    """Made by `transformers` itself, sharded, with its defaults: untied, epsilon 1e-6."""
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        rope_theta=5000.0,
    )
    torch.manual_seed(1)
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "llama", max_shard_size="20KB")
    assert (tmp_path / "llama" / "model.safetensors.index.json").exists()
    record = import_hf(tmp_path / "llama", tmp_path / "run")
    assert record.recipe.model.norm_eps == 1e-6
    assert record.recipe.model.rope_theta == 5000.0
    ids = torch.randint(100, (2, 16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(ids).logits
    torch.testing.assert_close(load(record.path).logits(ids), expected, rtol=0, atol=1e-5)


def test_bfloat16_halves_the_file_and_changes_little(runs, tmp_path):
    export_hf(runs / "ar", tmp_path / "full")
    export_hf(runs / "ar", tmp_path / "half", dtype="bfloat16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    ours, rounded = load(runs / "ar"), load(tmp_path / "half")
    ids = ids_for(ours)
    assert 0 < (ours.logits(ids) - rounded.logits(ids)).abs().max() < 0.3


def test_the_card_says_what_the_record_knows(tiny_pair, tmp_path):
    for family in FAMILIES:
        made = export_hf(tiny_pair / family, tmp_path / family)
        assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(
            made.files
        )
        card = (tmp_path / family / "README.md").read_text()
        result = RunRecord(tiny_pair / family).evaluation("best")
        assert f"{result.nll_nats_per_token:.4f} ± {result.standard_error:.4f}" in card
        assert ("upper bound" in card) == (family == "mdm")
        assert "1,000 unique tokens" in card
        assert "text.jsonl" in card
        assert "lr = 0.01" in card
        assert str(tmp_path) not in card
        recipe = (tmp_path / family / "recipe.toml").read_text()
        assert str(tiny_pair) not in card + recipe
        assert "run_dir" not in recipe


def test_a_run_without_a_tokenizer_is_exported_without_one(tmp_path):
    import_megatron(
        original.FILES / "megatron_mdm", tmp_path / "run", MegatronOptions(family="mdm")
    )
    made = export_hf(tmp_path / "run", tmp_path / "out")
    assert not made.has_tokenizer
    assert "tokenizer.json" not in made.files
    card = (tmp_path / "out" / "README.md").read_text()
    assert "ids 0 to 499, and id\n500 for a masked token" in card
    assert "Not known: the model was imported without its corpus" in card
    back = import_hf(tmp_path / "out", tmp_path / "back")
    assert (back.numbers["vocabulary"], back.family) == (500, "mdm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias = True"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"num_key_value_heads": 1}, "grouped-query attention"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling = "),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type = 'llama3'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"num_hidden_layers": 3}, r"lacks the tensor model\.layers\.1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"tie_word_embeddings": False}, r"lacks the tensor lm_head\.weight"),
    ],
)
def test_models_that_are_not_ours_are_refused_by_name(tiny_pair, tmp_path, change, message):
    export_hf(tiny_pair / "ar", tmp_path / "x")
    path = tmp_path / "x" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((CheckpointError, UserError), match=message):
        import_hf(tmp_path / "x", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_and_missing_files_are_named(tiny_pair, tmp_path):
    folder = tmp_path / "x"
    export_hf(tiny_pair / "ar", folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or damaged"):
        read_hf(folder)
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors; pytorch_model\.bin is"):
        read_hf(folder)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    save_file(tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, weights)
    with pytest.raises(
        CheckpointError, match=r"unknown tensor model\.layers\.0\.self_attn\.q_proj"
    ):
        read_hf(folder)
    save_file(tensors | {"model.norm.weight": torch.ones(31)}, weights)
    with pytest.raises(CheckpointError, match=r"final_norm\.weight.*\[31\]"):
        import_hf(folder, tmp_path / "run")
    with pytest.raises(CheckpointError, match="the family given is mdm"):
        read_hf(folder, family="mdm")
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read_hf(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"the file config\.json is missing"):
        read_hf(folder)
    with pytest.raises(CheckpointError, match="there is no folder"):
        read_hf(tmp_path / "nothing")


def test_a_place_in_use_and_a_dtype_that_is_none(tiny_pair, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_text("")
    with pytest.raises(RunError, match="already exists"):
        export_hf(tiny_pair / "ar", tmp_path / "x")
    with pytest.raises(UserError, match="give one of float32, bfloat16"):
        export_hf(tiny_pair / "ar", tmp_path / "y", dtype="int8")


def test_the_mask_takes_another_name_where_its_own_is_taken(tiny_pair, tmp_path):
    tokenizer = load_tokenizer(tiny_pair / "mdm" / "tokenizer.json")
    assert mask_name(tokenizer) == "[MASK]"
    tokenizer._tokens = [*tokenizer._tokens[:-1], "[MASK]"]
    assert mask_name(tokenizer) == "<|mask|>"


def test_the_commands(tiny_pair, tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code, capsys.readouterr()

    code, told = run("export", "hf", tiny_pair / "mdm", "--out", tmp_path / "hf", "--json")
    assert code == 0
    assert json.loads(told.out)["family"] == "mdm"
    code, told = run("import", "hf", tmp_path / "hf", "--out", tmp_path / "run")
    assert code == 0
    assert "mdm" in told.out
    code, told = run("import", "hf", tmp_path, "--out", tmp_path / "other")
    assert code == 2
    assert "config.json is missing" in told.err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochal": [1]}, "epochal"),
        ({"epochal": {"step": "x"}}, "step"),
        ({"epochal": {"unique_tokens": -5}}, "unique_tokens"),
        ({"epochal": {"vocabulary": "x"}}, "vocabulary"),
        ({"rope_parameters": 3}, "rope_parameters"),
        ({"rope_parameters": None, "rope_theta": "x"}, "rope_theta"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"head_dim": -5}, "head_dim"),
        ({"intermediate_size": "x"}, "intermediate_size"),
        ({"intermediate_size": 10**12}, "intermediate_size"),
        # A model of these would fill any memory, so shapes are compared before it is built.
        ({"intermediate_size": 10**9}, r"feed_forward.gate.weight has the shape .*1000000000"),
        ({"head_dim": 10**9}, r"attention.query.weight has the shape"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"mask_token_id": [1]}, "mask_token_id"),
        ({"mask_token_id": 5}, "mask_token_id"),
    ],
)
def test_odd_values_in_config_json_are_named(tiny_pair, tmp_path, change, named):
    export_hf(tiny_pair / "mdm", tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=named):
        import_hf(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_index_cannot_lead_out_of_its_folder(tiny_pair, tmp_path):
    export_hf(tiny_pair / "ar", tmp_path / "out")
    index = tmp_path / "out" / "model.safetensors.index.json"
    for name in ("../secret.safetensors", 5):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError, match=re.escape(repr(name))):
            import_hf(tmp_path / "out", tmp_path / "back")
