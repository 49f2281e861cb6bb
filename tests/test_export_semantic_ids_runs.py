"""export_semantic_ids.py: one ID an item whatever the order of rows, IDs that stay, and the prefix tree."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import assert_refused, run_main, run_script
from test_train_rqvae_runs import SCRIPT
from tiny_items import SMALL, clusters, write_embeddings

from semantic_ids import export_semantic_ids
from semantic_ids.collisions import resolve_collisions, retired_ids, spread_last_level
from semantic_ids.export_semantic_ids import encode_items, load_rqvae
from semantic_ids.prefix_trie import PrefixTrie
from semantic_ids.rqvae import RQVAE

CODES = np.array([[1, 2], [1, 2], [0, 1], [1, 2], [0, 1]])
IDS = ["c", "a", "e", "b", "d"]


def test_last_codes_follow_item_ids_not_rows():
    expected = dict(zip(IDS, resolve_collisions(IDS, CODES, 4, {}), strict=True))
    assert expected == {"a": 0, "b": 1, "c": 2, "d": 0, "e": 1}
    for order in itertools.permutations(range(5)):
        found = resolve_collisions([IDS[i] for i in order], CODES[list(order)], 4, {})
        assert {IDS[i]: last for i, last in zip(order, found, strict=True)} == expected


def test_given_codes_stay_and_are_never_given_again():
    previous = {"b": (1, 2, 0), "gone": (1, 2, 3), "d": (3, 3, 0)}  # d had other codes
    found = dict(zip(IDS, resolve_collisions(IDS, CODES, 4, previous), strict=True))
    assert found == {"b": 0, "a": 4, "c": 5, "d": 0, "e": 1}


def test_only_ids_above_those_in_use_are_retired():
    given = [[1, 2, 0], [1, 2, 3], [1, 2, 5], [0, 1, 2], [3, 3, 0]]
    now = np.array([[1, 2, 4], [0, 1, 2], [2, 2, 7]])
    assert retired_ids(given, now) == [[1, 2, 5], [3, 3, 0]]
    assert retired_ids([], now) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_holds_exactly_the_ids(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(5, size=(60, 3))
    trie = PrefixTrie.build(codes)
    rows = set(map(tuple, codes.tolist()))
    for depth in range(4):
        for prefix in itertools.product(range(5), repeat=depth):
            following = {row[depth] for row in rows if row[:depth] == prefix} if depth < 3 else set()
            assert trie.allowed(prefix).tolist() == sorted(following)


def test_the_tree_survives_its_file(tmp_path):
    trie = PrefixTrie.build(CODES)
    trie.save(tmp_path / "trie.npz")
    again = PrefixTrie.load(tmp_path / "trie.npz")
    assert (again.first_child == trie.first_child).all() and (again.code == trie.code).all()


def test_generation_can_only_end_in_an_item():
    from transformers import GPT2Config, GPT2LMHeadModel

    rng = np.random.default_rng(0)
    codes = rng.integers(8, size=(30, 3))
    trie, offsets, start, end = PrefixTrie.build(codes), [0, 8, 16], 24, 25
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=26, n_positions=32, n_embd=16, n_layer=1, n_head=2, pad_token_id=end)
    model = GPT2LMHeadModel(config).eval()
    prompt = torch.tensor([[3, 9, start], [20, 1, start]])
    allow = trie.allowed_tokens(start, offsets, end)
    settings = dict(max_new_tokens=4, num_beams=6, num_return_sequences=6, eos_token_id=end, pad_token_id=end)
    found = model.generate(prompt, prefix_allowed_tokens_fn=allow, do_sample=False, **settings)
    rows = set(map(tuple, codes.tolist()))
    written = {tuple((row[3:6] - torch.tensor(offsets)).tolist()) for row in found}
    assert written <= rows and len(written) > 3 and (found[:, 6] == end).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained model with the embeddings of 500 of its 600 items, and of all."""
    folder = tmp_path_factory.mktemp("trained")
    vectors = clusters()
    some = write_embeddings(folder / "some.parquet", vectors[:500])
    everything = write_embeddings(folder / "all.parquet", vectors)
    flags = [*SMALL.split(), "--embeddings_path", everything, "--checkpoint_dir", folder / "rqvae"]
    result = run_script(SCRIPT, *flags, "--num_epochs", 20)
    assert result.returncode == 0, result.stderr
    return folder / "rqvae/best_model.pth", some, everything


def export(trained, embeddings, output, *flags):
    fixed = "--checkpoint", trained[0], "--embeddings", embeddings, "--output", output, "--device", "cpu"
    room = [] if "--collision_size" in flags else ["--collision_size", 64]  # 16 codes a level are few
    return run_main(export_semantic_ids.main, *fixed, *room, *flags)


def ids_of(path):
    table = pq.read_table(path)
    return dict(
        zip(table.column("parent_asin").to_pylist(), table.column("semantic_id").to_pylist(), strict=True)
    )


def test_every_item_one_id_and_every_id_one_item(trained, tmp_path):
    output = tmp_path / "ids.parquet"
    result = export(trained, trained[2], output)
    assert result.returncode == 0, result.stderr
    found = ids_of(output)
    assert len(found) == 600 and len(set(found.values())) == 600
    assert json.loads((tmp_path / "ids.json").read_text()) == found
    row = pq.read_table(output).slice(7, 1).to_pylist()[0]
    codes = [row[f"semantic_id_{level}"] for level in range(4)]
    assert row["semantic_id"] == "-".join(map(str, codes))
    inner = "".join(f"<|sid_{16 * level + code}|>" for level, code in enumerate(codes))
    assert row["tokens"] == f"<|sid_start|>{inner}<|sid_end|>"
    model, config = load_rqvae(trained[0], torch.device("cpu"))
    assert config.codebook_size == 16
    vector = torch.tensor(pq.read_table(trained[2]).column("embedding")[7].as_py())
    assert model.encode(vector[None])[0].tolist() == codes[:3]
    with np.load(tmp_path / "ids.codebooks.npz") as books:
        assert (books["level_0"] == model.quantizers[0].codebook.detach().numpy()).all()
    trie = PrefixTrie.load(tmp_path / "ids.trie.npz")
    assert (
        trie.node(codes) is not None and len(trie.code) - np.count_nonzero(np.diff(trie.first_child)) == 600
    )


def test_float64_embeddings_get_the_ids_of_float32(trained, tmp_path):
    table = pq.read_table(trained[2])
    doubles = pa.array(table.column("embedding").to_pylist(), pa.list_(pa.float64()))
    pq.write_table(table.set_column(1, "embedding", doubles), tmp_path / "doubles.parquet")
    for source, name in ((trained[2], "single"), (tmp_path / "doubles.parquet", "double")):
        result = export(trained, source, tmp_path / f"{name}.parquet")
        assert result.returncode == 0, result.stderr
    assert ids_of(tmp_path / "single.parquet") == ids_of(tmp_path / "double.parquet")


def test_ids_stay_when_items_are_added_or_sorted_anew(trained, tmp_path):
    first, second, sorted_anew = (tmp_path / f"{name}.parquet" for name in ("first", "second", "third"))
    assert export(trained, trained[1], first).returncode == 0
    result = export(trained, trained[2], second, "--previous", first)
    assert result.returncode == 0 and "0 changed" in result.stdout, result.stderr
    before, after = ids_of(first), ids_of(second)
    assert all(after[item] == code for item, code in before.items())
    assert len(set(after.values())) == 600
    table = pq.read_table(trained[1])
    pq.write_table(
        table.take(np.random.default_rng(0).permutation(len(table))), tmp_path / "shuffled.parquet"
    )
    assert export(trained, tmp_path / "shuffled.parquet", sorted_anew).returncode == 0
    assert ids_of(sorted_anew) == before


def test_a_removed_items_id_never_goes_to_another(trained, tmp_path):
    """Kept, removed, a newcomer with the same codes, and the removed one back: four exports in a chain."""
    table = pq.read_table(trained[1])
    assert export(trained, trained[1], tmp_path / "0.parquet").returncode == 0
    first = ids_of(tmp_path / "0.parquet")
    gone = max(first, key=lambda item: int(first[item].rpartition("-")[2]))  # the last of its group
    row = table.column("parent_asin").to_pylist().index(gone)
    without = pa.concat_tables([table.slice(0, row), table.slice(row + 1)])
    newcomer = table.slice(row, 1).set_column(0, "parent_asin", pa.array(["new"]))
    given = {first[gone]: gone}
    for step, rows in enumerate(
        ([without], [without, newcomer], [without, newcomer, table.slice(row, 1)]), 1
    ):
        pq.write_table(pa.concat_tables(rows), tmp_path / "items.parquet")
        previous = "--previous", tmp_path / f"{step - 1}.parquet"
        result = export(trained, tmp_path / "items.parquet", tmp_path / f"{step}.parquet", *previous)
        assert result.returncode == 0 and "0 changed" in result.stdout, result.stderr
        for item, code in ids_of(tmp_path / f"{step}.parquet").items():
            assert given.setdefault(code, item) == item
    metadata = [pq.read_schema(tmp_path / f"{step}.parquet").metadata for step in range(4)]
    kept = [json.loads((each or {}).get(b"retired_semantic_ids", b"null")) for each in metadata]
    assert kept == [None, [first[gone]], None, None]  # no longer than it is needed


def test_equal_items_are_encoded_equally_wherever_they_stand():
    """The last block of a file is short, and its matrix products may take another kernel."""
    torch.manual_seed(0)
    model = RQVAE(256, (128,), 32, codebook_size=64).eval()
    vectors = torch.nn.functional.normalize(torch.randn(8192, 256), dim=1)
    model.fit_input_scale(vectors)
    for short in (1, 3, 100):
        blocks = iter([(["a"] * 8192, vectors.numpy()), (["b"] * short, vectors[:short].numpy())])
        ids, codes, residuals = encode_items(model, blocks, torch.device("cpu"), with_residuals=True)
        assert len(ids) == len(codes) == len(residuals) == 8192 + short
        assert (residuals[8192:] == residuals[:short]).all() and (codes[8192:] == codes[:short]).all()


# ---------------------------------------------------------------- the last level, chosen together


def small_prefix(seed: int):
    """Ten items of two prefixes, five codes: residuals close enough to share codes, one item twice."""
    rng = np.random.default_rng(seed)
    codebook, residuals = rng.normal(size=(5, 3)), 0.7 * rng.normal(size=(10, 3))
    residuals[3] = residuals[8] = residuals[1]
    prefixes = np.array([0, 0, 1, 0, 1, 0, 1, 1, 0, 1])
    nearest = np.square(residuals[:, None] - codebook).sum(2).argmin(1)
    codes = np.column_stack((prefixes, 1 - prefixes, nearest))
    return [f"i{n}" for n in range(10)], codes, residuals, codebook


def cheapest(rows, residuals, codebook, collision):
    """The least total cost of one prefix, by trying every assignment; equal items count once."""
    distinct = [
        row for n, row in enumerate(rows) if not any((residuals[row] == residuals[r]).all() for r in rows[:n])
    ]
    distances = np.square(residuals[distinct][:, None] - codebook).sum(2)
    options = [*range(len(codebook)), None]
    costs = []
    for choice in itertools.product(options, repeat=len(distinct)):
        chosen = [code for code in choice if code is not None]
        if len(set(chosen)) == len(chosen):
            costs.append(
                sum(
                    distances[n].min() + collision if code is None else distances[n, code]
                    for n, code in enumerate(choice)
                )
            )
    return min(costs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("price", [0.3, 3.0, 1e3])
def test_last_level_is_the_cheapest_assignment(seed, price):
    ids, codes, residuals, codebook = small_prefix(seed)
    fixed = np.zeros(10, dtype=bool)
    found = spread_last_level(ids, codes, residuals, codebook, price, fixed)
    assert (found[:, :2] == codes[:, :2]).all()
    collision = price * np.square(residuals - codebook[codes[:, 2]]).sum(1).mean()
    for prefix in (0, 1):
        rows = [row for row in range(10) if codes[row, 0] == prefix]
        if len({codes[row, 2] for row in rows}) == len(rows):
            continue
        first = {}
        for row in rows:
            same = first.setdefault(tuple(residuals[row]), found[row, 2])
            assert same == found[row, 2], "equal items stay together"
        # Of those that share a code, the one that the code was assigned to pays nothing for it.
        best = cheapest(rows, residuals, codebook, collision)
        cost, owned = 0.0, set()
        for residual, code in first.items():
            distances = np.square(np.array(residual) - codebook).sum(1)
            shared = code in owned
            owned.add(code)
            cost += distances[code] + (collision if shared else 0)
        assert cost == pytest.approx(best)
    order = np.random.default_rng(seed).permutation(10)
    shuffled = [ids[n] for n in order], codes[order], residuals[order], codebook, price, fixed
    assert (spread_last_level(*shuffled) == found[order]).all()


def test_price_nothing_changes_nothing_and_fixed_items_keep_their_code():
    ids, codes, residuals, codebook = small_prefix(0)
    fixed = np.zeros(10, dtype=bool)
    assert (spread_last_level(ids, codes, residuals, codebook, 0.0, fixed) == codes).all()
    fixed[[0, 2, 5]] = True
    given = codes.copy()
    given[[0, 2, 5], 2] = 4, 4, 3  # not their nearest ones
    found = spread_last_level(ids, given, residuals, codebook, 1e3, fixed)
    assert found[[0, 2, 5], 2].tolist() == [4, 4, 3]
    others = found[(codes[:, 0] == 0) & ~fixed, 2]
    assert not {4, 3} & set(others.tolist())


def test_fixed_items_keep_their_codes_though_they_are_equal_now():
    codebook = np.array([[0.0], [1.0], [2.0], [3.0]])
    residuals = np.array([[0.1], [0.1], [0.1], [0.2]])
    codes = np.array([[0, 0], [0, 1], [0, 0], [0, 0]])
    fixed = np.array([True, True, False, False])
    found = spread_last_level(list("abcd"), codes, residuals, codebook, 0.5, fixed)
    assert found[:3].tolist() == [[0, 0], [0, 1], [0, 0]]


def test_spread_ids_stay_when_items_are_added(trained, tmp_path):
    near, first, second = (tmp_path / f"{name}.parquet" for name in ("near", "first", "second"))
    price = "--collision_price", 100
    assert export(trained, trained[1], near).returncode == 0
    assert export(trained, trained[1], first, *price).returncode == 0
    prefixes = [{code.rpartition("-")[0] for code in ids_of(path).values()} for path in (near, first)]
    assert len(prefixes[1]) > len(prefixes[0])
    result = export(trained, trained[2], second, "--previous", first, *price)
    assert result.returncode == 0 and "0 changed" in result.stdout, result.stderr
    before, after = ids_of(first), ids_of(second)
    assert all(after[item] == code for item, code in before.items()) and len(set(after.values())) == 600
    result = export(trained, trained[2], second, "--previous", first)  # and without a price
    assert result.returncode == 0 and "0 changed" in result.stdout, result.stderr
    assert_refused(export(trained, trained[1], first, "--collision_price", -1), "--collision_price")


def test_bad_input_is_named(trained, tmp_path):
    output = tmp_path / "ids.parquet"
    assert_refused(export(trained, tmp_path / "none.parquet", output), "no such file")
    assert_refused(
        export(trained, trained[2], output, "--collision_size", 1), "share the codes", "room for 1"
    )
    assert_refused(
        export(trained, trained[2], output, "--previous", trained[2]), "not an export with 3 levels"
    )
    of_another = pa.table({"parent_asin": ["a"], **{f"semantic_id_{n}": [16] for n in range(4)}})
    pq.write_table(of_another, tmp_path / "another.parquet")
    assert_refused(
        export(trained, trained[2], output, "--previous", tmp_path / "another.parquet"), "16-16-16-16"
    )
    wide = write_embeddings(tmp_path / "wide.parquet", clusters(50, 20))
    assert_refused(export(trained, wide, output), "embeddings have 20 numbers")
    broken = tmp_path / "broken.pth"
    content = trained[0].read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"x" * 1000):
        broken.write_bytes(damaged)
        assert_refused(export((broken,), trained[2], output), "broken.pth")
    torch.save({"progress": {"config": {"codebook_size": 7}}, "model": {}}, broken)
    assert_refused(export((broken,), trained[2], output), "not a whole checkpoint")
    assert not output.exists()
