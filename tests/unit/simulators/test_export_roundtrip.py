from pathlib import Path

import numpy as np

from simulators.export import load, record, save
from simulators.town import Town


def test_export_file_reads_back_as_it_was(small_town: Town, tmp_path: Path) -> None:
    data = record(small_town, 0.6, "burst", history_days=0.3)
    save(data, tmp_path / "town.npz")
    again = load(tmp_path / "town.npz")
    assert again.story == data.story
    assert [c.channel_id for c in again.registry.channels] == list(range(1, len(data.registry.channels) + 1))
    assert again.registry.channels == data.registry.channels
    for name in data.readings.__slots__:
        np.testing.assert_array_equal(getattr(again.readings, name), getattr(data.readings, name))
    for one, two in zip(again.signatures, data.signatures, strict=True):
        assert (one.zone_id, one.pipe_ids, one.channel_ids) == (two.zone_id, two.pipe_ids, two.channel_ids)
        np.testing.assert_array_equal(one.fall_kpa_per_m3ph, two.fall_kpa_per_m3ph)
    assert any(t["leaks"] for t in again.truth)
    assert (np.diff(again.readings.observed_us) >= 0).all()
