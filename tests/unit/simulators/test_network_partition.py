import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from simulators.network import LinkKind, NetworkError, NodeKind, load_network, network_path, partition


@pytest.mark.parametrize(("name", "count"), [("ky4", 6), ("net3", 4), ("net3", 1)], ids=["ky4", "net3", "one-zone"])
def test_partition_any_network_areas_are_connected_and_cover_all(name: str, count: int) -> None:
    network = load_network(name)
    area = partition(network, count, np.random.default_rng(3))
    graph = network.junction_graph()
    assert set(area) == {n.node_id for n in network.of_kind(NodeKind.JUNCTION)}
    assert set(area.values()) == set(range(count))
    for a in set(area.values()):
        assert nx.is_connected(graph.subgraph([n for n in area if area[n] == a]))


def test_partition_ky4_cuts_few_links() -> None:
    network = load_network("ky4")
    for seed in range(4):
        area = partition(network, 6, np.random.default_rng(seed))
        cut = [k for k in network.links.values() if area.get(k.start, -1) != area.get(k.end, -1) and k.start in area and k.end in area]
        assert len(cut) <= 25


def test_load_network_drawing_units_become_metres() -> None:
    network = load_network("ky4")
    ratios = []
    for pipe in network.of_kind(LinkKind.PIPE):
        drawn = sum(np.hypot(b[0] - a[0], b[1] - a[1]) for a, b in zip(pipe.line, pipe.line[1:], strict=False))
        if drawn > 50:
            ratios.append(pipe.length_m / drawn)
    assert 0.97 < float(np.median(ratios)) < 1.03


def test_load_network_path_of_a_file_is_taken_as_it_is() -> None:
    path = network_path("net3")
    by_path = load_network(str(path))
    assert list(by_path.nodes) == list(load_network("net3").nodes)


def test_load_network_unknown_name_says_what_is_known() -> None:
    message = "network must be one of ky4, ky10, net1, net2, net3, net6 or the path of an EPANET INP file, got 'nowhere'"
    with pytest.raises(NetworkError, match="^" + re.escape(message) + "$"):
        load_network("nowhere")


def test_load_network_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        load_network(str(tmp_path))
