"""Checkpoints of the original: its own two samples, and every layout made from models of ours."""

from __future__ import annotations

import argparse
import shutil

import megatron_made
import numpy as np
import pytest
import torch

import original
from epochal.errors import CheckpointError, OptionError
from epochal.interop.imports import import_megatron
from epochal.interop.megatron import read_megatron
from epochal.interop.options import MegatronOptions
from epochal.models import Transformer

SAMPLES = {family: original.FILES / f"megatron_{family}" for family in original.FAMILIES}
IDS = torch.randint(500, (2, 32), generator=torch.Generator().manual_seed(1))


def built(foreign):
    model = Transformer(foreign.recipe.model.architecture(), foreign.vocabulary)
    model.load_state_dict(foreign.weights)
    return model.eval()


def same_model(foreign, made, tolerance=0.0):
    with torch.no_grad():
        for rule in ("causal", "bidirectional"):
            found, expected = built(foreign).logits(IDS, rule), made.logits(IDS, rule)
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= tolerance


@pytest.mark.parametrize("family", SAMPLES)
def test_the_samples_give_the_originals_logits(family):
    foreign = read_megatron(SAMPLES[family])
    assert (foreign.recipe.family, foreign.vocabulary, foreign.step) == (family, 500, 60)
    given = original.arrays(family)
    with torch.no_grad():
        tokens = torch.from_numpy(given["logits/tokens"]).long()
        found = built(foreign).logits(tokens, original.FAMILIES[family]).numpy()
    assert np.abs(found[:, :: original.LOGITS_EVERY] - given["logits/logits"]).max() < 1e-5


@pytest.mark.parametrize("family", SAMPLES)
def test_the_samples_arguments_become_the_recipe(family):
    """The values that the README and the stored arguments tell: 60 of 80 steps of 8 × 64."""
    recipe = read_megatron(SAMPLES[family]).recipe
    train, model = recipe.train, recipe.model
    assert (model.d_model, model.layers, model.heads, model.head_dim) == (48, 2, 3, 16)
    assert (model.d_ff, model.tie_embeddings, model.padded_vocab_size) == (128, True, None)
    assert (train.steps, train.global_batch_size, recipe.data.sequence_length) == (80, 8, 64)
    assert (train.lr, train.min_lr, train.schedule, train.warmup) == (2e-3, 2e-4, "cosine", 0.125)
    assert (train.attention_dropout, train.hidden_dropout) == (0.0, 0.0)
    # 1.0 on the sum of two micro-batches of 4 rows is 0.5 on their mean.
    assert train.grad_clip == 0.5
    assert (recipe.data.order, recipe.data.train_samples) == ("megatron", 640)
    assert recipe.seed == {"ar": 811, "mdm": 812}[family]


def test_ablations_become_recipe_lines(tmp_path):
    ablations = {
        "use_order_list": True,
        "num_order_list": 16,
        "use_predefined_order": True,
        "randmask_ratio": 0.1,
        "ar_ratio": 0.2,
        "low_noise_start": True,
        "low_noise_iter": 50,
    }
    megatron_made.write(tmp_path, megatron_made.model(), **ablations)
    ar = read_megatron(tmp_path, MegatronOptions(family="ar")).recipe.options
    assert (ar.orders, ar.order_kind, ar.token_masking) == (16, "noise_sorted", 0.1)
    mdm = read_megatron(tmp_path, MegatronOptions(family="mdm")).recipe.options
    assert (mdm.ar_ratio, mdm.low_noise_start, mdm.low_noise_iters) == (0.2, True, 50)


@pytest.mark.parametrize("family", SAMPLES)
def test_the_samples_moments_belong_to_their_weights(family):
    """Order of the optimizer's numbers: rows of unused ids have tiny second moments, and each
    moment has the shape of its weight."""
    foreign = read_megatron(SAMPLES[family], MegatronOptions(optimizer=True))
    assert foreign.moments.keys() == {"exp_avg", "exp_avg_sq", "step"}
    for kind in ("exp_avg", "exp_avg_sq"):
        assert foreign.moments[kind].keys() == foreign.weights.keys()
        for name, value in foreign.moments[kind].items():
            assert value.shape == foreign.weights[name].shape, name
    assert all(step == 60 for step in foreign.moments["step"].values())
    squares = foreign.moments["exp_avg_sq"]["embedding.weight"].mean(dim=1)
    assert squares[505:].max() < 0.1 * squares[:499].max()
    assert all((square >= 0).all() for square in foreign.moments["exp_avg_sq"].values())


@pytest.mark.parametrize("heads", [2, 3, 4])
@pytest.mark.parametrize("untied", [False, True])
def test_heads_that_do_not_fill_the_width(tmp_path, heads, untied):
    made = megatron_made.model(untied=untied, heads=heads, head_dim=20)
    megatron_made.write(tmp_path, made)
    same_model(read_megatron(tmp_path), made)


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("width", [2, 4])
def test_tensor_parallel_pieces_are_joined(tmp_path, width, untied):
    """Padding is then to a multiple of 128 · T, so the table may be longer than ours."""
    made = megatron_made.model(untied=untied, heads=4, head_dim=12, rows=512 * (width // 2))
    kinds = megatron_made.moments(made)
    megatron_made.write(tmp_path, made, width=width, with_moments=kinds)
    foreign = read_megatron(tmp_path, MegatronOptions(optimizer=True))
    assert foreign.recipe.model.padded_vocab_size == (None if width == 2 else 1024)
    same_model(foreign, made)
    same_moments(foreign, kinds)


@pytest.mark.parametrize("untied", [False, True])
def test_pipeline_stages_are_joined(tmp_path, untied):
    made = megatron_made.model(untied=untied)
    kinds = megatron_made.moments(made)
    megatron_made.write(tmp_path, made, stages=2, with_moments=kinds)
    foreign = read_megatron(tmp_path, MegatronOptions(optimizer=True))
    same_model(foreign, made)
    same_moments(foreign, kinds)


@pytest.mark.parametrize("ranks", [1, 3])
def test_flat_bfloat16_optimizers(tmp_path, ranks):
    """The float32 masters become the weights; the layer files have only their rounding."""
    made = megatron_made.model()
    kinds = megatron_made.moments(made)
    where = megatron_made.write(tmp_path, made, dtype=torch.bfloat16, bf16=True)
    megatron_made.write_zero(where, made, kinds, ranks=ranks)
    rounded = read_megatron(tmp_path)
    assert rounded.weights["embedding.weight"].dtype == torch.bfloat16
    same_model(rounded, rounded_copy(made))
    foreign = read_megatron(tmp_path, MegatronOptions(optimizer=True))
    same_model(foreign, made)
    same_moments(foreign, kinds)
    if ranks > 1:
        (where / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
        with pytest.raises(CheckpointError, match="this file is missing: bf16_zero_pp_rank_1_mp"):
            read_megatron(tmp_path, MegatronOptions(optimizer=True))


def rounded_copy(made):
    copy = Transformer(made.shape, made.vocabulary)
    copy.load_state_dict({n: w.bfloat16().float() for n, w in made.state_dict().items()})
    return copy.eval()


def same_moments(foreign, kinds):
    for kind, values in kinds.items():
        for name, value in values.items():
            assert torch.equal(foreign.moments[kind][name], value), (kind, name)
    assert set(foreign.moments["step"].values()) == {torch.tensor(12.0)} or all(
        step == 12 for step in foreign.moments["step"].values()
    )


def test_the_additional_mask_row_becomes_our_mask(tmp_path):
    """Untied, one more input row at the end: it takes the padding row that is our mask id."""
    made = megatron_made.model(untied=True)
    mask = torch.full((1, 48), 0.3)
    megatron_made.write(tmp_path, made, extra=mask, untie_with_additional_mask=True)
    foreign = read_megatron(tmp_path, MegatronOptions(family="mdm"))
    assert torch.equal(foreign.weights["embedding.weight"][500], mask[0])
    same_model(foreign, made)  # ids below 500


@pytest.mark.parametrize("layout", ["ranks", "iter"])
@pytest.mark.parametrize("width", [1, 2])
def test_the_other_layouts(tmp_path, layout, width):
    made = megatron_made.model(heads=4, head_dim=12, untied=True)
    whole = megatron_made.named(made)
    for rank in range(width):
        encoder, tables = {}, {}
        for name, tensor in whole.items():
            number, _, key = name.partition(".")
            piece = megatron_made.shard(name, tensor, rank, width)
            if number in ("2", "3"):
                encoder[f"layers.{int(number) - 2}.{key}"] = piece
            elif number == "4":
                encoder["final_layernorm.weight"] = piece
            else:
                tables[number] = piece
        model = {
            "language_model": {
                "embedding": {"word_embeddings": {"weight": tables["1"]}},
                "encoder": encoder,
                "output_layer": {"weight": tables["5"]},
            }
        }
        content = {
            "args": megatron_made.arguments(made, tensor_model_parallel_size=width),
            "iteration": 7,
        }
        if layout == "ranks":
            path = tmp_path / "global_step7" / f"mp_rank_{rank:02d}_model_states.pt"
            content["module"] = model
        else:
            path = tmp_path / "iter_0000007" / f"mp_rank_{rank:02d}" / "model_optim_rng.pt"
            content["model"] = model
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    foreign = read_megatron(tmp_path, MegatronOptions(vocabulary=500))
    assert foreign.step == 7
    same_model(foreign, made)
    with pytest.raises(CheckpointError, match="50257 for GPT-2"):
        read_megatron(tmp_path)


def test_the_family_is_the_users_word(tmp_path, capsys):
    made = megatron_made.model()
    megatron_made.write(tmp_path / "ar", made)
    assert read_megatron(tmp_path / "ar").recipe.family == "ar"
    assert "by the stored attention mask" in capsys.readouterr().err
    assert read_megatron(tmp_path / "ar", MegatronOptions(family="mdm")).recipe.family == "mdm"
    assert "though the stored attention mask" in capsys.readouterr().err
    megatron_made.write(tmp_path / "none", made, attn_mask=None)
    with pytest.raises(CheckpointError, match="pass family='ar' or family='mdm'"):
        read_megatron(tmp_path / "none")
    assert read_megatron(tmp_path / "none", MegatronOptions(family="mdm")).recipe.family == "mdm"
    free = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    megatron_made.write(tmp_path / "mdm", made, attn_mask=free)
    assert read_megatron(tmp_path / "mdm").recipe.family == "mdm"


def test_steps_are_chosen_by_latest_or_by_number(tmp_path):
    old, new = megatron_made.model(seed=1), megatron_made.model(seed=2)
    megatron_made.write(tmp_path, new, step=9)
    megatron_made.write(tmp_path, old, step=5)  # `latest` now names the older one
    same_model(read_megatron(tmp_path), old)
    same_model(read_megatron(tmp_path, MegatronOptions(step=9)), new)
    same_model(read_megatron(tmp_path / "global_step9"), new)
    (tmp_path / "latest").unlink()
    same_model(read_megatron(tmp_path), new)
    with pytest.raises(CheckpointError, match="no step 7; there are the steps 5, 9"):
        read_megatron(tmp_path, MegatronOptions(step=7))
    (tmp_path / "latest").write_text("nonsense")
    with pytest.raises(CheckpointError, match="says 'nonsense' instead of a step"):
        read_megatron(tmp_path)


def test_missing_files_are_named_one_by_one(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(SAMPLES["ar"], folder)
    where = folder / "global_step60"
    (where / "layer_02-model_00-model_states.pt").unlink()
    (where / "layer_04-model_00-model_states.pt").unlink()
    names = "layer_02-model_00-model_states.pt"
    with pytest.raises(CheckpointError, match=f"this file is missing: {names}"):
        read_megatron(folder)
    (where / names).write_bytes((where / "layer_03-model_00-model_states.pt").read_bytes())
    with pytest.raises(CheckpointError, match="missing: layer_04-model_00-model_states"):
        read_megatron(folder)
    (where / "mp_rank_00_model_states.pt").unlink()
    with pytest.raises(CheckpointError, match="missing: layer_04-model_00-model_states"):
        read_megatron(folder, MegatronOptions(family="ar", heads=3, vocabulary=500))


@pytest.fixture
def layers_only(tmp_path):
    """A sample without the file of arguments."""
    folder = shutil.copytree(SAMPLES["ar"], tmp_path / "copy")
    (folder / "global_step60" / "mp_rank_00_model_states.pt").unlink()
    return folder


@pytest.mark.parametrize("heads", [{"heads": 3, "head_dim": 16}, {"heads": 3}, {"head_dim": 16}])
def test_layer_files_and_the_heads_are_enough(layers_only, heads):
    whole = read_megatron(SAMPLES["ar"])
    foreign = read_megatron(layers_only, MegatronOptions(family="ar", vocabulary=500, **heads))
    shapes = [one.recipe.model.architecture() for one in (foreign, whole)]
    assert shapes[0] == shapes[1]
    assert (foreign.step, foreign.vocabulary) == (60, 500)
    assert foreign.weights.keys() == whole.weights.keys()
    assert all(torch.equal(foreign.weights[name], whole.weights[name]) for name in whole.weights)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("untied", [True, False])
def test_the_shape_is_read_from_the_weights_of_all_ranks(tmp_path, width, untied):
    made = megatron_made.model(heads=2, untied=untied)
    where = megatron_made.write(tmp_path, made, width=width)
    for path in where.glob("mp_rank_*"):
        path.unlink()
    options = MegatronOptions(family="mdm", vocabulary=500, heads=2)
    same_model(read_megatron(tmp_path, options), made)


def test_layer_files_without_the_heads(layers_only):
    with pytest.raises(CheckpointError, match=r"mp_rank_00_model_states.*--heads N --head-dim K"):
        read_megatron(layers_only, MegatronOptions(family="ar", vocabulary=500))
    for wrong in ({"heads": 5}, {"head_dim": 7}, {"heads": 2, "head_dim": 16}):
        with pytest.raises(OptionError, match="48"):
            read_megatron(layers_only, MegatronOptions(family="ar", vocabulary=500, **wrong))
    options = MegatronOptions(family="ar", vocabulary=500, heads=3, optimizer=True)
    with pytest.raises(CheckpointError, match="optimizer"):
        read_megatron(layers_only, options)


def test_heads_that_contradict_the_stored_ones():
    with pytest.raises(OptionError, match="heads"):
        read_megatron(SAMPLES["ar"], MegatronOptions(heads=4))
    assert read_megatron(SAMPLES["ar"], MegatronOptions(heads=3)).step == 60


def test_one_rank_of_two_is_not_enough(tmp_path):
    where = megatron_made.write(tmp_path, megatron_made.model(heads=4, head_dim=12), width=2)
    (where / "layer_03-model_01-model_states.pt").unlink()
    (where / "layer_04-model_01-model_states.pt").unlink()
    with pytest.raises(
        CheckpointError, match=r"2 files are missing: layer_03-model_01.*, layer_04-model_01"
    ):
        read_megatron(tmp_path)


def test_damaged_and_foreign_layer_files(tmp_path):
    where = megatron_made.write(tmp_path, megatron_made.model())
    path = where / "layer_02-model_00-model_states.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"layer_02.*truncated or damaged"):
        read_megatron(tmp_path)
    torch.save({"x": argparse.Namespace(a=1)}, path)
    with pytest.raises(CheckpointError, match=r"layer_02.*more than tensors"):
        read_megatron(tmp_path)
    torch.save({"input_layernorm.weight": torch.ones(48)}, path)
    with pytest.raises(CheckpointError, match=r"lacks tensor layer_02 .*query_key_value"):
        read_megatron(tmp_path)


def test_a_wrong_shape_and_an_unknown_tensor_are_named(tmp_path):
    where = megatron_made.write(tmp_path, megatron_made.model())
    path = where / "layer_03-model_00-model_states.pt"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"mlp.dense_h_to_4h.bias": torch.ones(256)}, path)
    with pytest.raises(CheckpointError, match=r"unknown tensor layer_03 .*dense_h_to_4h\.bias"):
        read_megatron(tmp_path)
    torch.save(content | {"mlp.dense_h_to_4h.weight": torch.ones(250, 48)}, path)
    with pytest.raises(CheckpointError, match=r"\[250, 48\], but .* \[256, 48\]"):
        read_megatron(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swiglu": False}, "swiglu = False"),
        ({"normalization": "layernorm"}, "normalization = 'layernorm'"),
        ({"add_bias_linear": True}, "add_bias_linear = True"),
        ({"rotary_percent": 0.5}, "rotary_percent = 0.5"),
        ({"num_key_value_heads": 1}, "grouped-query attention"),
        ({"num_layers": None}, "lack num_layers"),
    ],
)
def test_models_that_are_not_ours_are_refused_by_name(tmp_path, change, message):
    megatron_made.write(tmp_path, megatron_made.model(), **change)
    with pytest.raises(CheckpointError, match=message):
        read_megatron(tmp_path)


def test_places_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        read_megatron(tmp_path / "no")
    with pytest.raises(CheckpointError, match=r"no folder global_step<N>.*there is nothing"):
        read_megatron(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"there is notes\.txt"):
        read_megatron(tmp_path)
    (tmp_path / "global_step3").mkdir()
    with pytest.raises(CheckpointError, match="it needs layer_01-model_00"):
        read_megatron(tmp_path)
    with pytest.raises(OptionError, match="ar or mdm"):
        read_megatron(SAMPLES["ar"], MegatronOptions(family="gpt"))


def test_an_optimizer_that_is_not_there(tmp_path):
    megatron_made.write(tmp_path, megatron_made.model())
    with pytest.raises(CheckpointError, match="missing: bf16_zero_pp_rank_0_mp_rank_00"):
        read_megatron(tmp_path, MegatronOptions(optimizer=True))


DAMAGE = {
    "a moment is gone": lambda state, first: first.pop("exp_avg"),
    "the step is gone": lambda state, first: first.pop("step"),
    "a tensor is a word": lambda state, first: first.update(exp_avg="?"),
    "the list is a word": lambda state, first: state.update(param_groups="?"),
    "the groups are none": lambda state, first: state.update(param_groups=[]),
    "the groups lack a list": lambda state, first: state["param_groups"][-1].clear(),
    "a tensor is too short": lambda state, first: first.update(exp_avg=torch.zeros(3)),
    "a number is none": lambda state, first: first["exp_avg"].fill_(torch.nan),
    "a square is negative": lambda state, first: first["exp_avg_sq"].fill_(-1.0),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("stages", [1, 2])
def test_a_damaged_optimizer_is_refused(tmp_path, damage, stages):
    made = megatron_made.model()
    kinds = megatron_made.moments(made)
    where = megatron_made.write(tmp_path, made, stages=stages, with_moments=kinds)
    path = where / "mp_rank_00_model_states.pt"
    content = torch.load(path, weights_only=False)
    DAMAGE[damage](content["optimizer"], content["optimizer"]["state"][0])
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="without the optimizer"):
        import_megatron(tmp_path, tmp_path / "run", MegatronOptions(optimizer=True))
    assert not (tmp_path / "run").exists()
    assert import_megatron(tmp_path, tmp_path / "run").info["imported"]["optimizer"] is False


def test_a_damaged_flat_optimizer_is_refused(tmp_path):
    made = megatron_made.model()
    where = megatron_made.write(tmp_path, made, dtype=torch.bfloat16, bf16=True)
    megatron_made.write_zero(where, made, megatron_made.moments(made), ranks=1)
    path = where / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    whole = torch.load(path, weights_only=False)
    for key in ("base_optimizer_state", "single_partition_of_fp32_groups"):
        broken = {key: whole["optimizer_state_dict"][key]}
        torch.save({"optimizer_state_dict": broken}, path)
        with pytest.raises(CheckpointError, match="damaged, or of a form that is not known here"):
            read_megatron(tmp_path, MegatronOptions(optimizer=True))
