"""model/layout.py: every parameter has a place of its own, and every rank an equal part."""

import numpy as np
import pytest
from model import families, layout, llama
import gpt
import train

MODELS = {
    "GPT-2": gpt.Config(37, 20, 32, 2, 2),
    "Qwen 3": llama.Config(37, 20, 32, 2, 3, 3, 6, 20, qk_norm=True, tied=False),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def cfg(request):
    return request.param


@pytest.mark.parametrize("has_muon", [False, True])
def test_each_parameter_has_its_place(cfg, has_muon):
    """AdamW's first, and of those the ones that decay. Muon has the matrices of the blocks."""
    params = families.of(cfg).init(cfg, 0)
    optimizer = train.Muon(params, ratio=1.0) if has_muon else train.AdamW(params)
    found = layout.Layout(cfg, has_muon)
    whole = np.arange(found.size)
    places = found.views(whole)
    assert set(found.views(whole[found.of_adamw], found.of_adamw)) == set(optimizer.m)
    of_muon = found.views(whole[found.of_muon], found.of_muon)
    assert set(of_muon) == set(getattr(optimizer, "mean", ()))
    for name, place in of_muon.items():
        np.testing.assert_array_equal(place, places[name])
    for name in optimizer.m:
        decays = len(found.shapes[name]) == 2
        assert (places[name] < found.n_decayed).all() == decays
        assert (places[name] < found.of_adamw.stop).all()


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
def test_each_rank_has_an_equal_part(cfg, n_ranks):
    """All parts together are everything. No matrix of Muon's lies in two of them."""
    params = families.of(cfg).init(cfg, 0)
    optimizer = train.Muon(params, ratio=1.0)
    found = layout.Layout(cfg, True, n_ranks)
    places = found.views(np.arange(found.size))
    taken = np.concatenate([place.ravel() for place in places.values()])
    assert len(np.unique(taken)) == len(taken)
    matrices = []
    for region in (found.of_adamw, found.of_muon):
        own = [found.own(region, rank) for rank in range(n_ranks)]
        assert own[0].start == region.start and own[-1].stop == region.stop
        assert len({part.stop - part.start for part in own}) == 1
        for part, following in zip(own, own[1:]):
            assert part.stop == following.start and part.stop % 128 == 0
        if region == found.of_muon:
            for part in own:
                views = found.views(np.arange(part.start, part.stop), part)
                matrices += views
                for name, view in views.items():
                    np.testing.assert_array_equal(view, places[name])
    assert sorted(matrices) == sorted(optimizer.mean)


def test_padding_is_at_most_what_the_parts_need(cfg):
    plain = layout.Layout(cfg).size
    assert plain <= layout.Layout(cfg, False, 3).size < plain + 3 * 128


def test_there_and_back_with_some_rows(cfg):
    params = families.of(cfg).init(cfg, 0)
    found = layout.Layout(cfg, False, 2)
    flat = found.gather(params)
    back = {name: np.zeros_like(p[1:2]) for name, p in params.items()}
    found.scatter(flat, back, slice(0, found.size), lambda name: slice(1, 2))
    for name, p in params.items():
        np.testing.assert_array_equal(back[name], p[1:2])
    with pytest.raises(ValueError, match="wte.weight: .*, expected "):
        found.gather({**params, "wte.weight": params["wte.weight"][1:]})
