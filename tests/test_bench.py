"""The benchmarks run in their short form and report well-formed figures. The tests check no speeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import (
    chunks,
    concurrency,
    echo,
    front,
    hot_path,
    latency,
    layers,
    links,
    observer,
    onion,
    primitive_cases,
    primitives,
    proxy_path,
    throughput,
)
from bench.__main__ import BENCHMARKS
from bench.__main__ import main as run_all
from bench.lossy_wire import why_not
from bench.reference_chain import ReferenceChain
from bench.report import Spread, machine, markdown_table, table
from bench.tor_network import tor_version
from readwrite_comp.primitives import engine_names

pytestmark = pytest.mark.full


def check_spread(spread: dict[str, Any], count: int) -> None:
    assert spread["count"] == count
    assert 0 < spread["low"] <= spread["median"] <= spread["high"]


def check_machine(found: dict[str, Any]) -> None:
    assert found["cores"] >= 1
    assert found["cpu"]
    assert set(found["libraries"]) == {"cryptography", "pycryptodome"}


def check_throughput(found: dict[str, Any], proxies: list[int], pairs: int) -> None:
    assert found["benchmark"] == "throughput"
    check_machine(found["machine"])
    assert [case["proxies"] for case in found["cases"]] == proxies
    for case in found["cases"]:
        for kind in ("tunnel", "chain"):
            check_spread(case[kind]["mb_per_s"], pairs)
            check_spread(case[kind]["alice_cpu_s_per_gb"], pairs)
            check_spread(case[kind]["bob_cpu_s_per_gb"], pairs)
            assert 0 <= case[kind]["others_share"]["low"] <= case[kind]["others_share"]["high"] <= 1
            if case["proxies"]:
                check_spread(case[kind]["proxy_cpu_s_per_gb"], pairs)
            else:
                assert case[kind]["proxy_cpu_s_per_gb"] is None
        check_spread(case["speed_ratio"], pairs)
        check_spread(case["cpu_ratio"], pairs)


def check_layers(found: dict[str, Any]) -> None:
    assert found["benchmark"] == "layers"
    check_machine(found["machine"])
    names = [(case["name"], case["engine"], case["block_bytes"]) for case in found["cases"]]
    assert len(set(names)) == len(names)
    # Limiters both ways at three sizes; per engine the two permutations at three sizes, two limiters in
    # Sealed in both directions, and of each kind four depths at three sizes, two of them read at two.
    assert len(names) == 4 * 2 * 3 + len(engine_names()) * (2 * 3 + 2 * 2 + 4 * (4 * 3 + 4))
    for case in found["cases"]:
        for name in ("mb_per_s", "bound_mb_per_s", "ratio"):
            check_spread(case[name], found["settings"]["rounds"])


def check_echo(found: dict[str, Any]) -> None:
    assert found["benchmark"] == "echo"
    check_machine(found["machine"])
    kinds = [
        kind for kind in found["settings"]["kinds"] if kind in echo.installed(found["settings"]["kinds"])
    ]
    # Without the extra, at least the standard library is compared.
    assert {"reactor", "reactor, time limits", "asyncio Protocol", "asyncio streams"} <= set(kinds)
    loads = [tuple(load) for load in found["settings"]["loads"]]
    assert [(case["connections"], case["request_bytes"], case["kind"]) for case in found["cases"]] == [
        (*load, kind) for load in loads for kind in kinds
    ]
    for case in found["cases"]:
        for name in ("per_s", "p50_ms", "p99_ms"):
            check_spread(case[name], found["settings"]["rounds"])
        # The processor time of so few requests may be measured as 0.
        assert case["ratio"]["count"] == case["floor"]["count"] == found["settings"]["rounds"]
    assert [(one["connections"], one["kind"]) for one in found["memory"]] == [
        (idle, kind) for idle in found["settings"]["idle"] for kind in kinds
    ]


def check_primitives(found: dict[str, Any]) -> None:
    assert found["benchmark"] == "primitives"
    check_machine(found["machine"])
    names = {(case["name"], case["kind"]) for case in found["cases"]}
    assert len(names) == len(found["cases"])
    # The libraries with callbacks have all cases, the others all except callback timers.
    for kind in echo.installed(found["settings"]["kinds"]):
        expected = set(primitive_cases.CASES)
        if kind in ("trio", "curio"):
            expected -= {"timer set + cancel", "timer set + fire"}
        assert {name for name, other in names if other == kind} == expected
    for case in found["cases"]:
        check_spread(case["cpu_us"], found["settings"]["rounds"])
        check_spread(case["ratio"], found["settings"]["rounds"])


def check_onion(found: dict[str, Any], proxies: list[int]) -> None:
    assert found["benchmark"] == "onion"
    check_machine(found["machine"])
    names = [(case["name"], case["engine"], case["proxies"]) for case in found["cases"]]
    assert len(set(names)) == len(names)
    # Four calls, four kinds of layers and three of statuses for each n, six kinds of chunks more for n = 1.
    assert len(names) == len(engine_names()) * (11 * len(proxies) + 6 * (1 in proxies))
    assert {number for _, _, number in names} == set(proxies)
    for case in found["cases"]:
        check_spread(case["microseconds"], found["settings"]["rounds"])


def test_onion_as_table_and_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    assert onion.main(["--proxies", "2", "--rounds", "2", "--seconds", "0", "--json", str(target)]) == 0
    check_onion(json.loads(target.read_text(encoding="utf-8")), [2])
    assert "query, with reply block" in capsys.readouterr().out


def check_links(found: dict[str, Any], proxies: list[int]) -> None:
    assert found["benchmark"] == "links"
    check_machine(found["machine"])
    assert [case["proxies"] for case in found["cases"]] == proxies
    for case in found["cases"]:
        for policy in ("pooled", "once"):
            for name in ("first_byte_ms", "queries_per_s", "mb_per_s"):
                check_spread(case[policy][name], found["settings"]["pairs"])
    memory = found["memory"]
    assert memory["tunnels"] == found["settings"]["streams"]
    assert 0 < memory["rss_bytes_before"] <= memory["rss_bytes_after"]


def check_observer(found: dict[str, Any]) -> None:
    assert found["benchmark"] == "observer"
    check_machine(found["machine"])
    once, pooled, constant = found["cases"]
    queries, links_each = found["settings"]["queries"], found["settings"]["hops"] + 1
    assert once["connections"] == once["connections_meanwhile"] == queries * links_each
    for case in (pooled, constant):
        assert case["connections_meanwhile"] == 0
        assert case["by_connections"] == 0
    for case in found["cases"]:
        assert case["strange"] == 0
        assert set(case["record_sizes"]) <= set(found["allowed_sizes"])
        assert case["records"] > 0
    assert len(constant["record_sizes"]) == 1


def check_front(found: dict[str, Any], names: list[str]) -> None:
    assert found["benchmark"] == "front"
    check_machine(found["machine"])
    assert [case["name"] for case in found["cases"]] == names
    rounds = found["settings"]["rounds"]
    for case in found["cases"]:
        for name in ("download_mb_per_s", "parallel_mb_per_s", "connections_per_s"):
            check_spread(case[name], rounds)
        for name, count in (("echo", "echoes"), ("echo_beside", "echoes"), ("first_byte", "first_bytes")):
            assert case[name]["count"] == rounds * found["settings"][count]
            assert 0 < case[name]["low_ms"] <= case[name]["p50_ms"] <= case[name]["p99_ms"]
        assert (case["bare"] is None) == case["name"].startswith("Tor")
        assert {"client", "exit"} < set(case["memory_kib"])


def test_all_short_forms_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all(["--json", "-"]) == 0
    found = {one["benchmark"]: one for one in json.loads(capsys.readouterr().out)["benchmarks"]}
    assert len(found) == len(BENCHMARKS)
    check_layers(found["layers"])
    check_echo(found["echo"])
    check_primitives(found["primitives"])
    check_onion(found["onion"], [1, 3])
    check_throughput(found["throughput"], [0, 3], 1)
    check_links(found["links"], [1])
    check_observer(found["observer"])
    check_proxy_path(found["proxy path"])
    check_latency(found["latency"], [0, 2])
    check_chunks(found["chunks"], [8_164, 4_068])
    check_concurrency(found["concurrency"], [1, 4])
    check_front(found["front"], ["3 proxies", "2 proxies"])


def test_the_long_forms_are_run_in_turn_and_kept_one_by_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that were measured before a failure are in the file."""
    target = tmp_path / "result.json"
    monkeypatch.setattr("bench.__main__.BENCHMARKS", (onion, throughput))
    monkeypatch.setattr(throughput, "FULL", ("first", "second"))
    monkeypatch.setattr(onion, "Settings", onion.Settings.short)

    def fail(settings: str) -> None:
        raise RuntimeError(f"{settings} fails")

    monkeypatch.setattr(throughput, "measure", fail)
    with pytest.raises(RuntimeError, match="first fails"):
        run_all(["--full", "--json", str(target)])
    (kept,) = json.loads(target.read_text(encoding="utf-8"))["benchmarks"]
    check_onion(kept, [1, 3])
    assert "query, with reply block" in capsys.readouterr().out


def check_proxy_path(found: dict[str, Any]) -> None:
    check_machine(found["machine"])
    assert [case["profile"] for case in found["cases"]] == ["default", "default-hctr", "bulk", "bulk-hctr"]
    for case in found["cases"]:
        for name in ("path", "passes"):
            check_spread(case[name], found["settings"]["rounds"])


def check_latency(found: dict[str, Any], hops: list[int]) -> None:
    check_machine(found["machine"])
    purposes = ["established", *(f"established, {name}" for name in ("mixed", "interactive", "bulk"))]
    kinds = ["one-shot route", "one-shot cached", *purposes, "cold links"]
    cases = {(case["kind"], case["layout"], case["hops"]): case["latency"] for case in found["cases"]}
    assert set(cases) == {
        (kind, layout, number) for kind in kinds for layout in latency.LAYOUTS for number in hops
    }
    assert len(cases) == len(found["cases"])
    for (kind, _, _), spread in cases.items():
        assert spread["count"] == found["settings"]["cold" if kind == "cold links" else "count"]
        assert 0 < spread["low_ms"] <= spread["p50_ms"] <= spread["p99_ms"]


def check_chunks(found: dict[str, Any], lengths: list[int]) -> None:
    check_machine(found["machine"])
    assert [case["chunk_bytes"] for case in found["cases"]] == lengths
    for case in found["cases"]:
        for name in ("mb_per_s", "proxy_cpu_s_per_gb", "trip_ms", "speed_ratio", "cpu_ratio", "trip_ratio"):
            check_spread(case[name], found["settings"]["rounds"])
    assert found["cases"][0]["speed_ratio"]["median"] == 1


def check_concurrency(found: dict[str, Any], tunnels: list[int]) -> None:
    check_machine(found["machine"])
    assert [case["tunnels"] for case in found["cases"]] == tunnels
    for case in found["cases"]:
        for name in ("mb_per_cpu_s", "mb_per_s", "ratio"):
            check_spread(case[name], found["settings"]["rounds"])
        assert case["stream_kib"] >= 0
    assert found["cases"][0]["ratio"]["median"] == 1
    assert found["memory"]["links"] == found["settings"]["links"]
    assert found["memory"]["link_kib"] > 0


def test_latency_as_table_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "result.png"
    options = ["--short", "--hops", "1", "--count", "2", "--cold", "1", "--plot", str(target)]
    assert latency.main(options) == 0
    assert "established, one process" in capsys.readouterr().out
    assert target.read_bytes().startswith(b"\x89PNG")


def test_concurrency_as_table_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "result.png"
    assert concurrency.main(["--short", "--tunnels", "2", "--plot", str(target)]) == 0
    assert "one of 3 idle links" in capsys.readouterr().out
    assert target.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(why_not() is not None, reason=f"no network namespaces: {why_not()}")
def test_chunks_on_slow_lines_take_their_time() -> None:
    """On lines of 100 Mbit/s, 5 ms one way, a message over 3 proxies passes 4 links there and back."""
    settings = chunks.Settings(chunks=(4_068,), megabytes=0.2, trips=2, rounds=1, mbit=100, delay_ms=5)
    (case,) = chunks.measure(settings)
    assert case.trip_ms.median >= 2 * 4 * (5 + 4_096 * 8 / 100_000)
    assert case.mb_per_s.median < 100 / 8


@pytest.mark.skipif(front.why_not() is not None, reason=f"no front: {front.why_not()}")
@pytest.mark.skipif(tor_version() is None, reason="tor or tor-gencert is not installed")
# A private network of Tor agrees on itself within a time that a busy machine exceeds.
@pytest.mark.slow
def test_front_beside_tor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    assert front.main(["--short", "--tor", "--json", str(target)]) == 0
    check_front(json.loads(target.read_text()), ["3 proxies", "2 proxies", "Tor", "Tor, best"])
    assert "echo beside a download" in capsys.readouterr().out


def test_front_needs_curl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert front.main(["--short"]) == 2
    assert "curl is not installed" in capsys.readouterr().err


def test_proxy_path_of_one_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert proxy_path.main(["--profiles", "interactive", "--chunks", "20", "--rounds", "1"]) == 0
    assert "interactive" in capsys.readouterr().out


def test_latency_of_few_and_of_many() -> None:
    few = latency.Latency.of([0.003, 0.001, 0.002])
    assert (few.p50_ms, few.p99_ms, few.low_ms, few.count) == (2.0, 3.0, 1.0, 3)
    many = latency.Latency.of([number / 1000 for number in range(1, 201)])
    assert (many.p50_ms, many.p99_ms) == (100.5, 199.0)
    with pytest.raises(ValueError, match="no measurements"):
        latency.Latency.of([])


def test_throughput_with_replies_as_table_and_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "result.json"
    options = ["--proxies", "0", "1", "--megabytes", "0.3", "--pairs", "2", "--mode", "route"]
    assert throughput.main([*options, "--engine", "pycryptodome", "--json", str(target)]) == 0
    found = json.loads(target.read_text(encoding="utf-8"))
    check_throughput(found, [0, 1], 2)
    assert found["settings"]["engine"] == "pycryptodome"
    printed = capsys.readouterr().out
    assert "0 proxies, tunnel" in printed
    assert "1 proxies, chain" in printed


@pytest.mark.parametrize("profile", ["interactive", "bulk-hctr"])
def test_throughput_of_other_profiles(profile: str) -> None:
    settings = throughput.Settings(proxies=(1,), megabytes=0.2, pairs=1, profile=profile)
    (case,) = throughput.measure(settings)
    assert case.tunnel.mb_per_s.median > 0


def test_throughput_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "result.png"
    options = ["--proxies", "0", "1", "--megabytes", "0.1", "--pairs", "1", "--plot", str(target)]
    assert throughput.main(options) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_links_and_observer_are_listed_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for bench, words in ((links, "1 proxies, pooled"), (observer, "pooled, constant rate")):
        target = tmp_path / f"{bench.__name__}.png"
        assert bench.main(["--short", "--plot", str(target)]) == 0
        assert words in capsys.readouterr().out
        assert target.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("bench", "options"),
    [
        (links, ["--proxies", "-1"]),
        (links, ["--megabytes", "0"]),
        (links, ["--streams", "0"]),
        (observer, ["--hops", "9"]),
        (observer, ["--queries", "0"]),
    ],
)
def test_wrong_use_of_the_others(bench: Any, options: list[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        bench.main(options)
    assert refusal.value.code == 2


@pytest.mark.parametrize(
    "options", [["--proxies", "-1"], ["--pairs", "0"], ["--megabytes", "0"], ["--mode", "x"]]
)
def test_wrong_use_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        throughput.main(options)
    assert refusal.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_layers_as_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert layers.main(["--short"]) == 0
    assert "25 × LIONESS write" in capsys.readouterr().out


def test_loops_are_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    echo_plot, primitives_plot = tmp_path / "echo.png", tmp_path / "primitives.png"
    only = ["--only", "reactor", "asyncio Protocol", "--rounds", "2"]
    assert echo.main(["--short", *only, "--markdown", "--plot", str(echo_plot)]) == 0
    assert "| asyncio Protocol | 10 | 64 B |" in capsys.readouterr().out
    assert primitives.main(["--short", "--only", "reactor", "--plot", str(primitives_plot)]) == 0
    assert "ping-pong" in capsys.readouterr().out
    for plot in (echo_plot, primitives_plot):
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_hot_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert hot_path.main(["--connections", "3", "--requests", "60", "--rounds", "1"]) == 0
    assert "reactor, time limits: " in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", [echo, primitives])
def test_loops_are_compared_with_ours(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        benchmark.main(["--only", "trio"])
    assert refusal.value.code == 2
    assert "must name 'reactor'" in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "profile"), [("none", "default"), ("route", "default-hctr")])
def test_the_reference_chain_carries_content(mode: str, profile: str) -> None:
    with ReferenceChain(2, mode=mode, profile=profile) as chain:
        for content_bytes in (0, 1, 16_334, 16_335, 300_000):
            run = chain.run(content_bytes)  # raises when other content arrives
            assert run.content_bytes == content_bytes
            assert len(run.cpu_s) == 4
            assert min(run.cpu_s) > 0


def test_spread_and_table() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (spread.median, spread.low, spread.high, spread.count) == (2.0, 1.0, 3.0, 3)
    assert spread.text() == "2.0 (1.0–3.0)"
    assert Spread.of([1234.5]).text(0) == "1,234"
    with pytest.raises(ValueError, match="no measurements"):
        Spread.of([])
    lines = table(("", "MB/s"), [("a", 1), ("long name", 22)], title="Title").split("\n")
    assert lines == ["Title", "           MB/s", "---------  ----", "a             1", "long name    22"]
    lines = markdown_table(("", "MB/s"), [("a", 1)], title="Title").split("\n")
    assert lines == ["**Title**", "", "|  | MB/s |", "| --- | ---: |", "| a | 1 |"]
    assert machine().line().count(",") >= 5
